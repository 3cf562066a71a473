# What one does with this tree. `make` alone lists it. Nothing here asks
# questions; what is longer than a line is a script in .ci.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),$(shell cat VERSION 2>/dev/null),unknown)

# Programs that tests and lint run, built once for each version in .ci/tools.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/atc/bin
export ATC_VERSITYGW := $(TOOLS)/versitygw
export ATC_LITESTREAM := $(TOOLS)/litestream

# Two packages at a time, on any machine: tests of the filesystem load several
# processors each and have deadlines.
TEST ?= ./...
TESTFLAGS ?= -race -p 2 -count 1 -timeout 30m

.PHONY: help build demo test lint generate bench soak tools modules clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: modules ## build bin/atc, a static program
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o bin/atc ./cmd/atc

demo: build ## build, and run an application with three tenants on 127.0.0.1:8080
	bin/atc demo

test: modules tools ## run all tests, or TEST=./fs/..., after installing what they need
	go build -o bin/gotest ./.ci/gotest
	bin/gotest $(TESTFLAGS) $(TEST)

lint: modules tools ## check formatting, modules, and the code with vet and staticcheck
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "not formatted (gofmt -w):"; echo "$$files"; exit 1; }
	go mod verify
	go mod tidy -diff
	go vet ./... ./.ci/gotest
	GOOS=wasip1 GOARCH=wasm go vet ./wasm-examples/...
	$(TOOLS)/staticcheck ./... ./.ci/gotest

generate: modules ## build the embedded resolvers again from wasm-examples
	wasm-examples/build.sh

bench: modules tools ## measure against the underlying filesystem and print the table
	go run ./cmd/bench

soak: modules tools ## hammer every journal mode for a minute each, tell stories of failure for ten, measure costs in full
	ATC_SOAK=1m go test -count 1 -v -timeout 30m -run TestHammer ./fs/mount
	ATC_SOAK=10m go test -race -count 1 -v -timeout 30m -run TestStorm ./fs/mount
	ATC_COST=full go test -count 1 -v -timeout 30m -run 'Test.*Cost|TestFirstShip|TestManyBusy' ./fs/mount

tools: ## install what tests and lint need, without running them
	@.ci/packages gcc libc6-dev libsqlite3-dev rsync sqlite3
	@.ci/tools $(TOOLS)

# A machine without certificates cannot fetch modules; one that has the modules
# needs neither.
modules:
	@go mod download || { .ci/packages ca-certificates && go mod download; }

clean: ## remove what was built here; tools stay in the user's cache
	rm -rf bin
