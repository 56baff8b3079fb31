# The server in a container: built from source, then nothing but the programs on a slim system.
#
#   docker build -t zaqar-server .
#   docker run --read-only --cap-drop ALL --stop-timeout 40 -p 8888:8888 -v zaqar:/var/lib/zaqar zaqar-server
#
# The server reads /etc/zaqar/zaqar.conf, /etc/zaqar/zaqar.conf.d, and OS_SECTION__OPTION from the
# environment, and says in a warning that without [DEFAULT] auth_strategy it believes everybody. It
# writes to /var/lib/zaqar only, where the embedded store is; with another store it
# writes nothing.

FROM rust:1.89-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p zaqar-server \
    && strip target/release/zaqar-server target/release/zaqar-manage target/release/zaqar-policy \
        target/release/zaqar-status target/release/zaqar-gc target/release/zaqar-sql-db-manage

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 42424 zaqar \
    && useradd --system --uid 42424 --gid zaqar --no-create-home --home-dir /var/lib/zaqar \
        --shell /usr/sbin/nologin zaqar \
    && install -d -m 0750 -o zaqar -g zaqar /var/lib/zaqar \
    && install -d -m 0755 /etc/zaqar
COPY --from=build /src/target/release/zaqar-server /src/target/release/zaqar-manage \
    /src/target/release/zaqar-policy /src/target/release/zaqar-status \
    /src/target/release/zaqar-gc /src/target/release/zaqar-sql-db-manage /usr/bin/
COPY crates/zaqar-server/zaqar.conf /usr/share/zaqar-server-rs/zaqar.conf
# A container has its own addresses: both transports listen on all of them. A file that is mounted in
# this place replaces it.
RUN printf '[drivers]\ntransport = wsgi, websocket\n' > /etc/zaqar/zaqar.conf \
    && printf '[drivers:transport:%s]\nbind = 0.0.0.0\n' wsgi websocket >> /etc/zaqar/zaqar.conf
# Where the embedded store is.
WORKDIR /var/lib/zaqar
USER 42424:42424
VOLUME /var/lib/zaqar
EXPOSE 8888 9000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["zaqar-server", "health"]
ENTRYPOINT ["zaqar-server"]
