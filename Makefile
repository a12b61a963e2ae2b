# The menu. What outgrows a few lines lives in crates/xtask; what has to run before cargo, in scripts/.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

CARGO ?= cargo
VERSION = $(shell sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
MACHINE = $(shell uname -m)
PACKAGE = syncline-$(VERSION)-linux-$(MACHINE)
SERVERS = target/dev/servers.env
# A test mostly waits for a server, so there are more of them than there are cores.
TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

# $(call timed,what,command): says what begins, and how long it took.
timed = echo "==> $(1)"; start=$$SECONDS; $(2) && status=0 || status=$$?; \
	echo "==> $(1): $$((SECONDS - start)) s$$( (( status == 0 )) || echo ", failed")"; (exit $$status)

# $(call later,sentence): for a target whose part does not exist yet. Never pretends.
later = echo "make $@: $(1)" >&2; exit 1

##@ Main

.PHONY: help
help: ## Show this menu
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup ## Set everything up, sync real data between real clusters, prove it equal (KEEP=1 leaves it running)
	@$(call timed,demo,$(CARGO) xtask demo $(if $(KEEP),--keep))

.PHONY: demo-postgres
demo-postgres: setup ## The same from PostgreSQL: real tables, changed and attacked meanwhile, proved equal, asked by REST
	@$(call timed,demo,$(CARGO) xtask demo-postgres $(if $(KEEP),--keep))

.PHONY: setup
setup: bootstrap ## Install and fetch what the tests and the demo run against
	@$(call timed,setup,$(CARGO) xtask setup)

##@ Build

.PHONY: build
build: ## Debug build
	@$(CARGO) build

.PHONY: release
release: ## Release build (optimized)
	@$(CARGO) build --release

.PHONY: musl
musl: ## Static build: musl where its target is installed, else glibc linked statically
	@scripts/static-build.sh

.PHONY: docs
docs: ## Write docs/reference.md anew and build the API documentation
	@$(CARGO) run --quiet -- reference > target/reference.md
	@mv target/reference.md docs/reference.md
	@$(CARGO) doc --workspace --no-deps

##@ Test

.PHONY: test
test: setup ## Set everything up, then run all tests against real servers
	@trap '$(CARGO) --quiet xtask servers stop --tests' EXIT; \
	$(call timed,building the tests,$(CARGO) test --workspace --locked --no-run --quiet); \
	$(call timed,tests,RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --workspace --locked)

.PHONY: lint
lint: bootstrap ## Run fmt + clippy, and check that ARCHITECTURE.md names files that exist
	@$(call timed,formatting,$(CARGO) fmt --all --check)
	@$(call timed,clippy,$(CARGO) clippy --workspace --all-targets --locked -- -D warnings)
	@$(call timed,paths in the documentation,scripts/check-paths.sh)

.PHONY: check
check: lint ## All that needs no server: lint, cargo-deny, documentation, unit tests
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(call timed,cargo-deny,$(CARGO) deny --all-features check); \
	else \
		echo "==> cargo-deny is not installed (cargo install --locked cargo-deny): licences and advisories were not checked"; \
	fi
	@$(call timed,documentation,RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet)
	@$(call timed,unit tests,$(CARGO) test --workspace --lib --bins --locked --quiet)

.PHONY: bench
bench: setup ## Measure against elasticdump, _reindex and a bare loader; JSON under target/bench
	@$(call timed,bench,$(CARGO) xtask bench $(ARGS))

.PHONY: chaos
chaos: setup ## Kill and restart everything under load, then compare (ARGS="--seeds 20")
	@$(call timed,chaos,$(CARGO) xtask chaos $(ARGS))

.PHONY: fuzz
fuzz: ## Fuzz every decoder for a minute each (SECONDS_EACH=60); needs nightly Rust and cargo-fuzz
	@scripts/fuzz.sh

##@ Develop

.PHONY: dev-up
dev-up: setup ## Start a source, a target and NATS to develop against
	@$(CARGO) xtask servers start

.PHONY: dev-down
dev-down: ## Stop them
	@$(CARGO) xtask servers stop

.PHONY: run-watcher
run-watcher: $(SERVERS) ## Run es-watcher against them (ARGS="--log-level debug")
	@set -a; . ./$(SERVERS); set +a; \
	exec $(CARGO) run --quiet -- es-watcher --es-hosts "$$ES_SOURCE" --checkpoint-path target/dev/checkpoint $(ARGS)

.PHONY: run-writer
run-writer: $(SERVERS) ## Run es-writer against them
	@set -a; . ./$(SERVERS); set +a; \
	exec $(CARGO) run --quiet -- es-writer --es-hosts "$$ES_TARGET" $(ARGS)

.PHONY: run-gateway-embedded
run-gateway-embedded: $(SERVERS) ## Run the gateway with embedded NATS (the others: ARGS="--nats-url nats://127.0.0.1:4322")
	@set -a; . ./$(SERVERS); set +a; \
	exec $(CARGO) run --quiet -- nats-gateway --embedded --nats-binary "$$NATS_SERVER" \
	  --nats-listen 127.0.0.1:4322 --store-dir target/dev/gateway --admin-listen 127.0.0.1:8080 $(ARGS)

$(SERVERS):
	@echo "no development servers are running: make dev-up starts them" >&2; exit 1

##@ Distribute

.PHONY: dist
dist: ## Create the release package: program, links, configuration, documentation
	@$(CARGO) build --profile dist --locked
	@scripts/package.sh target/dist/syncline "target/package/$(PACKAGE)"

.PHONY: tarball
tarball: dist ## Create its .tar.gz, with a checksum
	@tar -C target/package --owner=0 --group=0 --sort=name -czf "target/package/$(PACKAGE).tar.gz" "$(PACKAGE)"
	@cd target/package && sha256sum "$(PACKAGE).tar.gz" | tee "$(PACKAGE).tar.gz.sha256"

.PHONY: docker-build
docker-build: ## Build all images (a later release)
	@$(call later,images come in a later release; \`make tarball\` packs the program today)

.PHONY: docker-push
docker-push: ## Push them to a registry (a later release)
	@$(call later,there are no images to push yet; they come in a later release)

.PHONY: firecracker-rootfs
firecracker-rootfs: setup ## Build firecracker/rootfs.ext4 from what `make musl` has built (PROGRAM=FILE takes another)
	@scripts/microvm-rootfs.sh

.PHONY: firecracker-kernel
firecracker-kernel: ## Build firecracker/vmlinux: Debian's in a minute, or KERNEL=minimal in twenty
	@scripts/microvm-kernel.sh

.PHONY: microvm-run
microvm-run: setup ## Boot the two under QEMU, with KVM where there is one (ARGS="INCLUDE_INDICES=movies")
	@$(CARGO) xtask microvm $(ARGS)

.PHONY: microvm-test
microvm-test: setup ## Only the test that boots one, with what the guest says
	@$(CARGO) test -p syncline --test e2e --locked microvm -- --nocapture

# Not in the menu: the compiler and what it needs, before anything can be built.
.PHONY: bootstrap
bootstrap:
	@scripts/bootstrap.sh
