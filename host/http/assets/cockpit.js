// The script of the cockpit. Every view works without it: it shows times in the zone of the reader, lets parts of a view
// read themselves again, and copies texts.

/** The longest wait before a stream that broke is opened again, in milliseconds. */
const RETRY_MAX = 30_000;

/** A view rests this many times as long as its last answer took, so that open pages cost a host little. */
const REST_FACTOR = 20;

/** How a time is written: with its day and its zone, so that a picture of the page says when it was.
 * @type {Intl.DateTimeFormatOptions} */
const TIME = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" };

/** @param {ParentNode} root */
function localise(root) {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime()) || "ago" in time.dataset) continue;
    time.textContent = at.toLocaleString(undefined, TIME);
  }
}

/** Tells a screen reader. @param {string} text */
function say(text) {
  const place = document.getElementById("said");
  if (place) place.textContent = text;
}

/** The text of a document of this host. @param {string} address */
async function read(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer.text();
}

/** @param {string} text @param {HTMLElement} button */
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it by hand";
  }
  say(button.textContent);
  setTimeout(() => { button.textContent = "Copy"; }, 2_000);
}

/** @param {ParentNode} root */
function addCopyButtons(root) {
  for (const source of root.querySelectorAll("[data-copy], [data-copy-from]")) {
    const name = source.closest("dd")?.previousElementSibling?.textContent ?? "this";
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy ${name}`);
    button.addEventListener("click", async () => {
      const address = source instanceof HTMLAnchorElement ? source.href : null;
      try {
        await copy(address ? await read(address) : source.textContent ?? "", button);
      } catch (error) {
        button.textContent = `Cannot be read: ${error instanceof Error ? error.message : "no answer"}`;
        say(button.textContent);
      }
    });
    source.after(button);
  }
}

/** Whether somebody is using the part just now. @param {Element} part */
function isInUse(part) {
  const focused = document.activeElement;
  if (part.querySelector('input[name="ids"]:checked')) return true;
  const isTyping = focused instanceof HTMLInputElement && !["checkbox", "radio"].includes(focused.type);
  if (focused && part.contains(focused) && (isTyping || focused instanceof HTMLSelectElement)) return true;
  const selection = document.getSelection();
  return !!selection && !selection.isCollapsed && selection.containsNode(part, true);
}

/** How an element is found again in a newer version of its part. @param {Element} element */
function keyOf(element) {
  for (const name of ["id", "href", "value", "formaction"]) {
    const value = element.getAttribute(name);
    if (value) return `${element.localName}[${name}="${CSS.escape(value)}"]`;
  }
  return null;
}

/** Puts the newer version of a part into its place, and keeps what a person has done in it.
 * @param {Element} old @param {Element} fresh */
function replace(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  const checked = [...old.querySelectorAll("input:checked")].map(keyOf);
  const opened = [...old.querySelectorAll("details")].map((details) => details.open);
  const scrolled = [...old.querySelectorAll(".wide, pre")].map((box) => box.scrollLeft);
  const focused = document.activeElement && old.contains(document.activeElement) ? keyOf(document.activeElement) : null;
  old.replaceChildren(...fresh.childNodes);
  for (const key of checked) {
    const input = key && old.querySelector(key);
    if (input instanceof HTMLInputElement) input.checked = true;
  }
  old.querySelectorAll("details").forEach((details, index) => { details.open = opened[index] ?? details.open; });
  old.querySelectorAll(".wide, pre").forEach((box, index) => { box.scrollLeft = scrolled[index] ?? 0; });
  if (focused) /** @type {HTMLElement | null} */ (old.querySelector(focused))?.focus({ preventScroll: true });
}

/** Reads the view again, and shows the parts that have changed. Returns how the view is now, in a word or two. */
async function refresh() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (answer.status === 401 || answer.redirected) return "logged out";
  if (!answer.ok) return `not live: ${answer.status}`;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  localise(fresh);
  for (const part of document.querySelectorAll("[data-part]")) {
    const name = part.getAttribute("data-part") ?? "";
    const newer = fresh.querySelector(`[data-part="${CSS.escape(name)}"]`);
    if (newer && !isInUse(part)) replace(part, newer);
  }
  showSelection();
  return "live";
}

/** Keeps a stream open while the page is visible and nobody has paused it. */
class Live {
  /** @type {EventSource | null} */
  stream = null;
  isPaused = false;
  isReading = false;
  wait = 1_000;
  /** Until when the view is not read again. A view that takes long to answer is read seldom. */
  restUntil = 0;

  /** @param {string} address @param {HTMLButtonElement} button */
  constructor(address, button) {
    this.address = address;
    this.button = button;
    button.hidden = false;
    button.addEventListener("click", () => {
      this.isPaused = !this.isPaused;
      this.follow(true);
    });
    document.addEventListener("visibilitychange", () => this.follow(true));
    this.follow(false);
  }

  /** @param {boolean} isBack */
  follow(isBack) {
    const isWanted = !this.isPaused && document.visibilityState === "visible";
    if (!isWanted) {
      this.stream?.close();
      this.stream = null;
    } else if (!this.stream) {
      if (isBack) void this.read();
      this.open();
    }
    this.show(this.isPaused ? "paused" : "live");
  }

  open() {
    const stream = new EventSource(this.address);
    this.stream = stream;
    stream.addEventListener("change", () => void this.read());
    stream.addEventListener("open", () => { this.wait = 1_000; });
    stream.addEventListener("error", () => {
      if (stream !== this.stream) return;
      stream.close();
      this.stream = null;
      this.show("not connected");
      setTimeout(() => this.follow(true), this.wait);
      this.wait = Math.min(this.wait * 2, RETRY_MAX);
    });
  }

  async read() {
    const began = performance.now();
    if (this.isReading || began < this.restUntil) return;
    this.isReading = true;
    try {
      this.show(await refresh());
    } catch {
      this.show("not connected");
    }
    const ended = performance.now();
    this.restUntil = ended + REST_FACTOR * (ended - began);
    this.isReading = false;
  }

  /** @param {string} state */
  show(state) {
    this.button.textContent = this.isPaused ? "paused" : state;
    this.button.title = this.isPaused ? "Refresh this view by itself again" : "Stop refreshing this view";
    this.button.classList.toggle("paused", this.isPaused);
    this.button.classList.toggle("lost", !this.isPaused && state !== "live");
  }
}

/** Says how many items are selected. */
function showSelection() {
  const place = document.getElementById("selected");
  const number = document.querySelectorAll('input[name="ids"]:checked').length;
  if (place) place.textContent = number === 0 ? "Selected items" : `${number} selected`;
}

/** @param {KeyboardEvent} event */
function useKey(event) {
  const target = event.target;
  const isTyping = target instanceof HTMLElement && target.matches("input:not([type=checkbox]), select, textarea");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const search = document.getElementById("search");
    if (!search) return;
    event.preventDefault();
    search.focus();
  }
}

localise(document);
addCopyButtons(document);
document.addEventListener("keydown", useKey);
document.addEventListener("change", showSelection);
const liveAddress = document.body.dataset.live;
const liveButton = document.getElementById("live");
if (liveAddress && liveButton instanceof HTMLButtonElement) new Live(liveAddress, liveButton);
