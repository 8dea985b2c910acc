# Every recipe is a line here and a script in stack/ or a program in bin/. Settings: see docs/reference.md.

set positional-arguments

export PATH := env("PATH") + ":/usr/sbin"

# list the recipes
default:
    @just --list --unsorted

# install the missing packages: nginx, PostgreSQL, curl, openssl, iproute2
[group('run')]
setup:
    stack/setup

# build the programs
[group('run')]
build:
    cargo build --release --locked

# the Debian packages, into target/debian
[group('run')]
package *args:
    stack/package "$@"

# the image that deploy/compose.yaml runs, with buildah, as root: just image [NAME]
[group('run')]
image *args:
    stack/image "$@"

# start PostgreSQL, server, nginx, canary, signer and board, and wait until they answer
[group('run')]
up: build
    stack/up

# stop them; the records stay
[group('run')]
down:
    stack/down

# does each part run and answer?
[group('run')]
status:
    stack/status

# find the faults that keep announcements from being heard or clients from being let in
[group('run')]
[no-exit-message]
doctor *checks: build
    @exec stack/run rollcall-server doctor "$@"

# the last lines of every log: just logs [-f] [LINES]
[group('run')]
logs *args:
    @exec stack/logs "$@"

# the walkthrough in one terminal, each step checked
[group('run')]
demo: build
    stack/demo

# be seen: just client [--every 30s] [--cert FILE --key FILE]
[group('use')]
[no-exit-message]
client *args: build
    @exec stack/run rollcall-client "$@"

# print the stream: just listen [--json] [--count N]
[group('use')]
[no-exit-message]
listen *args: build
    @exec stack/run rollcall-listen "$@"

# who is here: just who [EMAIL] [--state late,offline] [--watch] [--json] [--exit-code]
[group('use')]
[no-exit-message]
who *args: build
    @exec stack/run rollcall-client who "$@"

# open the page that shows who is here: prints its address, which is good once and for 60 s
[group('use')]
[no-exit-message]
board: build
    @exec stack/run rollcall-board link

# the people that are enrolled: just user add|list|disable|enable|every|reads|export|forget EMAIL…
[group('use')]
user *args: build
    @exec stack/run rollcall-admin user "$@"

# the visits of a person: just history EMAIL [--since 7d] [--json]
[group('use')]
[no-exit-message]
history *args: build
    @exec stack/run rollcall-admin history "$@"

# enrol a person or device: just enrol EMAIL [--name NAME] [--csr FILE | --cert FILE] [--p12 | --p12-legacy]
[group('certificates')]
[no-exit-message]
enrol *args: build
    @exec stack/run rollcall-admin enrol "$@"

# every certificate and when it ends: just certs [--expiring 30d] [--json]
[group('certificates')]
[no-exit-message]
certs *args: build
    @exec stack/run rollcall-admin certs "$@"

# a new key and certificate in the place of certs/NAME.crt and .key: just renew NAME [--csr FILE]
[group('certificates')]
[no-exit-message]
renew *args: build
    @exec stack/run rollcall-admin renew "$@"

# the same for the server's, with a reload: just renew-server [NAME…] [--without NAME]; clients call it by these names
[group('certificates')]
[no-exit-message]
renew-server *args: build
    @exec stack/run rollcall-admin renew --server "$@"

# refuse certificates from the next request on: just revoke EMAIL|NAME|SERIAL… [--unknown]
[group('certificates')]
[no-exit-message]
revoke +names: build
    @exec stack/run rollcall-admin revoke "$@"

# a fresh CRL: just crl [--if-due] [--drop-forgotten]; a timer does this, see deploy/
[group('certificates')]
[no-exit-message]
crl *args: build
    @exec stack/run rollcall-admin crl "$@"

# our certificate authority: just ca init [--forget-others] | renew | replace [--finish] [--yes] | protect
[group('certificates')]
[no-exit-message]
ca *args: build
    @exec stack/run rollcall-admin ca "$@"

# let a further host join: just invite NAME [HOST…]
[group('certificates')]
[no-exit-message]
invite *args: build
    @exec stack/run rollcall-admin invite "$@"

# make this host one more server of a database: just join DATABASE_URL --invitation NAME:SECRET
[group('certificates')]
[no-exit-message]
join *args: build
    @exec stack/run rollcall-admin join "$@"

# take a server out of the database: just leave NAME [--forget]
[group('certificates')]
[no-exit-message]
leave *args: build
    @exec stack/run rollcall-admin leave "$@"

# the public keys of all servers, as one file for listeners: just keys [--json]
[group('certificates')]
[no-exit-message]
keys *args: build
    @exec stack/run rollcall-admin keys "$@"

# replace the key that signs announcements, in steps: just rotate-key [--switch|--finish]
[group('certificates')]
rotate-key *args: build
    @exec stack/rotate "$@"

# write the man pages and the completions for bash, zsh and fish into target/man and target/completions
[group('check')]
manual:
    cargo run --quiet --locked --example manual -- target

# format, lint, the arrows between the rooms, and build the documentation
[group('check')]
lint: layers
    cargo fmt --all --check
    cargo fmt --manifest-path bench/Cargo.toml --check
    cargo fmt --manifest-path bench/peers/axum/Cargo.toml --check
    cargo fmt --manifest-path fuzz/Cargo.toml --check
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --test proof -- -D warnings
    cargo clippy --locked --no-default-features --features listen -- -D warnings
    cargo clippy --locked --no-default-features --features client -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# the arrows between the rooms of src/, and the crates that only some of them name
[group('check')]
layers:
    #!/usr/bin/env bash
    set -euo pipefail
    # room | rooms that it imports | crates that no other room names
    table='
    cli      |                                                 | argh signal_hook env_logger
    files    |                                                 |
    protocol |                                                 | byteorder ring
    lan      |                                                 | socket2 nix
    prometheus |                                               | nix
    keyfile  | files protocol                                  |
    x509     | keyfile                                         | x509_cert ring
    store    | files keyfile protocol                          | sqlx
    http     | protocol store x509                             | async_h1 subtle tide
    client   | cli files keyfile x509                          | async_tls rustls webpki httparse
    listener | cli files keyfile prometheus protocol lan       |
    server   | cli files keyfile x509 prometheus protocol lan store http | tide ring
    board    | cli files http keyfile prometheus protocol lan store | tide ring nix
    stack    | cli files http keyfile lan server               | nix ring
    admin    | cli files http keyfile x509 protocol store stack | ring
    doctor   | cli files keyfile x509 protocol lan store server stack | nix
    '
    rooms=" $(sed -n 's/ *|.*//p' <<<"$table" | xargs) "
    crates=$(cut -d'|' -f3 <<<"$table" | xargs)
    wrong=0
    for room in $(ls src | sed 's/\.rs$//' | grep -vx lib | sort -u); do
        allowed=" $(sed -n "s/^ *$room *|//p" <<<"$table" | tr '|' ' ') "
        for name in $rooms $crates; do
            [[ $name == "$room" || $allowed == *" $name "* ]] && continue
            [[ $rooms == *" $name "* ]] && path="crate::$name\b" || path="$name::"
            grep -rnE "(^|[^:_[:alnum:]])$path" src/$room.rs src/$room 2>/dev/null && wrong=1
        done
    done
    # The lines above would miss a room in a list.
    grep -rn 'crate::{' src && wrong=1
    exit $wrong

# all tests, on free ports, loopback and networks of their own; they wait more than they compute
[group('check')]
test *args:
    RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))} cargo test --locked "$@"

# the documents: each line that they show is run, each name in them exists
[group('check')]
docs-check:
    cargo test --locked --test it documents

# a PostgreSQL that fails over, on this machine: just ha up|down|status|…, just ha test [--long]; just ha --help. As root
[group('check')]
[no-exit-message]
ha *args:
    @exec tests/ha/bed "$@"

# see that the claims of README.md hold on this machine: just prove [--list] [--json] [CLAIM…]; just prove --long HOURS
[group('check')]
[no-exit-message]
prove *args:
    @exec stack/prove "$@"

# look for bytes that break a reader: just fuzz datagram|headers|judge|settings|state|subject|x509 [SECONDS]
[group('check')]
[no-exit-message]
fuzz name seconds="60":
    @exec stack/fuzz "$@"

# measure beside the peers and the limits: just bench [--quick | --long [--minutes N] [--rows N]]; without --quick also docs/benchmarks.md
[group('check')]
bench *args:
    bench/run "$@"

# the recipe of .ci/run
[group('check')]
ci: lint test
