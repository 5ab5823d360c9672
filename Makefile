# The only place where commands are written down.

CARGO    ?= cargo
TARGET   := wasm32-wasip2
HANDLERS := vector-upsert belief-recompute webhook
BUILT    := target/$(TARGET)/guest
PLUGINS  := plugins.d
GUESTS   := target/guests

.PHONY: plugins guests wasm-target

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

# The handler that tests are made with, in two versions.
guests: wasm-target
	mkdir -p $(GUESTS)
	for version in 1 2; do \
		CHAOS_VERSION=$$version $(CARGO) build --profile guest --target $(TARGET) -p chaos && \
		cp $(BUILT)/chaos.wasm $(GUESTS)/.chaos.tmp && \
		mv $(GUESTS)/.chaos.tmp $(GUESTS)/chaos-$$version.wasm || exit 1; \
	done

# A toolchain file alone does not install the target where RUSTUP_AUTO_INSTALL=0.
wasm-target:
	@rustup target list --installed | grep -qx $(TARGET) || rustup target add $(TARGET)
