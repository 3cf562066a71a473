# What one does with this tree. `make` alone lists it. Nothing here asks
# questions; what is longer than a line is a script in .ci.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),$(shell cat VERSION 2>/dev/null),unknown)

# Programs that tests and lint run, built once for each version in .ci/tools and
# .ci/npm.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/atc
TOOLS := $(CACHE)/bin
export ATC_TOOLS := $(TOOLS)
export ATC_SQLITE := $(CACHE)/sqlite

# Two packages at a time, on any machine: tests of the filesystem load several
# processors each and have deadlines. SQLite's own tests come after them and
# without the race detector, under which they take ten times as long.
TEST ?= ./...
TESTFLAGS ?= -race -p 2 -count 1 -timeout 30m

.PHONY: help build demo test sqlite-tests lint generate examples bench soak tools sqlite modules clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: modules ## build bin/atc, a static program
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o bin/atc ./cmd/atc

demo: build ## build, and run an application with three tenants on 127.0.0.1:8080
	bin/atc demo

test: modules tools sqlite ## run all tests, or TEST=./fs/..., after installing what they need
	go build -o bin/gotest ./.ci/gotest
	bin/gotest $(TESTFLAGS) $(TEST)
ifeq ($(TEST),./...)
	bin/gotest -count 1 -timeout 30m -run 'TestSQLite$$' ./fs/mount/sqlitetest
endif

sqlite-tests: modules tools sqlite ## run SQLite's own tests through the mount and beside it, or CASES='wal*.test kvtest*'; hours
	ATC_SQLITE_TESTS='$(or $(CASES),all)' go test -count 1 -v -timeout 12h -run 'TestSQLite$$' ./fs/mount/sqlitetest

lint: modules tools ## check formatting, modules, and the code with vet and staticcheck
	@! grep '"resolved"' .ci/actual-server/package-lock.json examples/guestbook/package-lock.json /dev/null # would bind to one registry
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "not formatted (gofmt -w):"; echo "$$files"; exit 1; }
	go mod verify
	go mod tidy -diff
	go vet ./... ./.ci/gotest
	GOOS=wasip1 GOARCH=wasm go vet ./wasm-examples/...
	$(TOOLS)/staticcheck ./... ./.ci/gotest

generate: modules ## build the embedded resolvers in Go again from wasm-examples
	wasm-examples/build.sh ../policy/builtin go

examples: build ## build all resolvers of wasm-examples again, after installing their compilers, and test them
	.ci/packages clang lld rustc libstd-rust-dev-wasm32 wabt
	command -v npm >/dev/null || .ci/packages nodejs npm
	npm install --silent --no-fund --no-audit --prefix $(TOOLS)/assemblyscript assemblyscript@0.28.20
	ATC_ASC="$(TOOLS)/assemblyscript/node_modules/.bin/asc" sh wasm-examples/build.sh
	go test -count 1 -run Examples ./policy
	PATH="/usr/bin:$$PATH:$(TOOLS)/assemblyscript/node_modules/.bin" sh wasm-examples/starters.sh bin/atc

bench: modules tools ## measure against the underlying filesystem and print the table
	go run ./cmd/bench

soak: modules tools ## hammer every journal mode for a minute each, tell stories of failure for ten, measure costs in full
	ATC_SOAK=1m go test -count 1 -v -timeout 30m -run TestHammer ./fs/mount
	ATC_SOAK=10m go test -race -count 1 -v -timeout 30m -run TestStorm ./fs/mount
	ATC_COST=full go test -count 1 -v -timeout 30m -run 'Test.*Cost|TestFirstShip|TestManyBusy|TestOverTheLockPage' ./fs/mount

tools: ## install what tests and lint need, without running them
	@.ci/packages gcc g++ libc6-dev libsqlite3-dev python3 sqlite3
	@command -v npm >/dev/null || .ci/packages nodejs npm
	@.ci/tools $(TOOLS)
	@.ci/npm .ci/actual-server $(TOOLS)/actual-server
	@.ci/npm examples/guestbook $(TOOLS)/guestbook

sqlite: ## build SQLite's own tests, without running them
	@.ci/packages gcc libc6-dev make xz-utils tcl8.6-dev
	@.ci/sqlite $(ATC_SQLITE)

# A machine without certificates cannot fetch modules; one that has the modules
# needs neither.
modules:
	@go mod download || { .ci/packages ca-certificates && go mod download; }

clean: ## remove what was built here; tools stay in the user's cache
	rm -rf bin
