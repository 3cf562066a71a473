# docker build -t atc .
# docker run --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined \
#     -p 8080:8080 -v ./atc.toml:/etc/atc.toml:ro atc
#
# An image of an application copies /usr/local/bin/atc out of this one and has
# the same entrypoint. atc mounts by itself: no fusermount is needed.

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN make build

FROM debian:bookworm-slim
RUN apt-get update \
	&& apt-get install -y --no-install-recommends ca-certificates \
	&& rm -rf /var/lib/apt/lists/*
COPY --from=build /src/bin/atc /usr/local/bin/atc
EXPOSE 8080
ENTRYPOINT ["atc"]
CMD ["serve", "--config", "/etc/atc.toml"]
