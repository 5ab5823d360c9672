# The only place where commands are written down.

CARGO    ?= cargo
TARGET   := wasm32-wasip2
HANDLERS := vector-upsert belief-recompute webhook
CRATES   := outbox-handler $(HANDLERS) chaos gallery
BUILT    := target/$(TARGET)/guest
PLUGINS  := plugins.d
GUESTS   := target/guests
TOOLS    := target/tools
DENY     := 0.20.2
CONFORMED := target/conformance.log

.PHONY: help demo plugins guests test conformance soak check deny fmt ci wasm-target tools

help:
	@echo 'make demo       build everything and walk the smoke (ARGS=--exit ends after the walk)'
	@echo 'make plugins    build the handlers into $(PLUGINS)/'
	@echo 'make test       the everyday suite'
	@echo 'make conformance  the requirements of Open Outbox, each with its result'
	@echo 'make soak       the same promises at full size'
	@echo 'make check      formatting, lints, documentation'
	@echo 'make deny       licences, sources and bans of the dependencies'
	@echo 'make ci         everything that must be green'

demo: plugins
	$(CARGO) build -p outbox --bin outbox --example demo
	target/debug/examples/demo $(ARGS)

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

# The handlers that tests are made with: one that does as it is told, in two versions, and the checker's
# gallery of bugs.
guests: wasm-target
	$(CARGO) build --profile guest --target $(TARGET) -p gallery
	mkdir -p $(GUESTS)
	for version in 1 2; do \
		CHAOS_VERSION=$$version $(CARGO) build --profile guest --target $(TARGET) -p chaos && \
		cp $(BUILT)/chaos.wasm $(GUESTS)/.chaos.tmp && \
		mv $(GUESTS)/.chaos.tmp $(GUESTS)/chaos-$$version.wasm || exit 1; \
	done
	mkdir -p $(GUESTS)/gallery/cases
	cp plugins/gallery/gallery.toml $(BUILT)/gallery.wasm $(GUESTS)/gallery
	cp plugins/gallery/cases/*.toml $(GUESTS)/gallery/cases

test: tools plugins guests
	$(CARGO) test -p outbox -p outbox-handler

# One line per requirement: those that are tested with the stores that pass, the others with the reason.
conformance:
	@$(MAKE) --silent tools plugins guests
	@result=0; $(CARGO) test -p outbox --test it conformance:: > $(CONFORMED) || result=1; \
	awk -f tests/conformance/table.awk ARCHITECTURE.md $(CONFORMED) | sort -t- -k1,1 -k2n; \
	[ $$result = 0 ] || cat $(CONFORMED); exit $$result

# The figures that the documents state: hours of faults instead of minutes.
soak: tools plugins guests
	OUTBOX_SOAK=1 $(CARGO) test -p outbox --test it $(ONLY) -- --nocapture --test-threads 1

check: wasm-target
	$(CARGO) fmt --all --check
	$(CARGO) clippy -p outbox --all-targets -- -D warnings
	$(CARGO) clippy $(CRATES:%=-p %) --target $(TARGET) -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc -p outbox -p outbox-handler --no-deps --document-private-items

# Advisories are left out: their database is fetched from a host that build machines may not reach.
deny: $(TOOLS)/bin/cargo-deny
	$(TOOLS)/bin/cargo-deny --locked check bans licenses sources

$(TOOLS)/bin/cargo-deny:
	CARGO_TARGET_DIR=$(TOOLS)/target $(CARGO) install cargo-deny --locked --version $(DENY) --root $(TOOLS)

fmt:
	$(CARGO) fmt --all

ci: check test deny
	target/debug/examples/demo --exit

# A toolchain file alone does not install the target where RUSTUP_AUTO_INSTALL=0.
wasm-target:
	@rustup target list --installed | grep -qx $(TARGET) || rustup target add $(TARGET)

# What the tests use as an application would: the sqlite3 command line and Python.
tools:
	@for tool in sqlite3 python3; do \
		command -v $$tool > /dev/null && continue; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
			apt-get update -qq && apt-get install -y -qq $$tool || exit 1; \
		else \
			echo "the tests need $$tool: install the package $$tool" >&2; exit 1; \
		fi; \
	done
