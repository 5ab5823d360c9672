// What the walks through the cockpit share: the browser, the check of accessibility, a receiver, and a proxy with a prefix.
// It knows no view.

import assert from "node:assert/strict";
import http from "node:http";
import { createRequire } from "node:module";
import { existsSync, readFileSync } from "node:fs";

/** The host, its tokens, its folder of plugins, and the ports that the walk may listen on. */
export const stage = JSON.parse(process.env.OUTBOX_BROWSER_STAGE ?? "{}");

const tools = createRequire(`${stage.tools}/node_modules/`);
const { chromium } = tools("playwright-core");
const axe = readFileSync(tools.resolve("axe-core/axe.min.js"), "utf8");

/** How long the walk waits for anything, in milliseconds: enough for a busy machine. */
export const SOON = 60_000;

/** The browser of the system. Root cannot use its sandbox, and visits only a host of this test. */
export async function launch() {
  const folders = (process.env.PATH ?? "").split(":");
  const places = ["chromium", "chromium-browser"].flatMap((name) => folders.map((folder) => `${folder}/${name}`));
  const executablePath = places.find((place) => existsSync(place));
  assert.ok(executablePath, "no chromium: `make test-browser` says which package has it");
  return chromium.launch({ executablePath, args: ["--no-sandbox"] });
}

/** A visitor: a context of its own with a page, whose script must meet no error.
 * `options` are those of the browser: theme, size of the window, whether scripts run. */
export async function visitor(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(SOON);
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(String(error)));
  page.on("console", (message) => {
    // The browser itself says that an answer was a refusal.
    const isAnswer = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !isAnswer) page.problems.push(message.text());
  });
  return page;
}

/** Goes to an address of the cockpit, which must answer with this status. */
export async function visit(page, path, status = 200, root = stage.url) {
  const answer = await page.goto(root + path);
  assert.equal(answer.status(), status, `${path} answers ${answer.status()}`);
  return answer;
}

/** Logs in with the token of a role. */
export async function logIn(page, role, root = stage.url) {
  await page.goto(`${root}/cockpit`);
  await page.getByLabel("Token").fill(stage.tokens[role]);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.waitForLoadState();
}

/** Errors unless the view is one that everybody can use: nothing that axe calls serious or critical, no error of the
 * script, and nothing wider than the window. */
export async function check(page, name) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const serious = found.violations.filter((violation) => ["serious", "critical"].includes(violation.impact));
  const told = serious.map((violation) => `${violation.id}: ${violation.nodes.map((node) => node.html).join(" ")}`);
  assert.deepEqual(told, [], `${name}: what axe finds`);
  assert.deepEqual(page.problems, [], `${name}: errors in the browser`);
  const width = await page.evaluate(() => [document.documentElement.scrollWidth, globalThis.innerWidth]);
  assert.ok(width[0] <= width[1], `${name} is ${width[0]} wide in a window of ${width[1]}`);
}

/** Waits until the function returns something that is true. */
export async function until(what, isTrue) {
  for (const begun = Date.now(); Date.now() - begun < SOON; ) {
    const value = await isTrue();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`${what}: not within a minute`);
}

/** Sends a request to the host as a program does, with the token of a role. */
export async function send(role, method, path, body, headers = {}) {
  return fetch(stage.url + path, {
    method,
    redirect: "manual",
    headers: { authorization: `Bearer ${stage.tokens[role]}`, "content-type": "application/json", ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
}

/** Enqueues an item of the type `webhook`. Returns its id. */
export async function enqueue(key, more = {}) {
  const item = { type: "webhook", idem_key: key, payload: { order: key }, ...more };
  const answer = await send("admin", "POST", "/items", item);
  assert.equal(answer.status, 202, await answer.clone().text());
  return (await answer.json()).outbox_ids[0];
}

/** Waits until the item has the status. */
export async function becomes(id, status) {
  const path = `/items/${id}`;
  const read = async () => (await (await send("admin", "GET", path)).json()).status;
  await until(`item ${id} is ${status}`, async () => await read() === status);
}

/** The receiver that the handler `webhook` calls. It answers with `status`. */
export class Receiver {
  status = 200;
  /** How many requests came. */
  requests = 0;

  async start() {
    const server = http.createServer((request, answer) => {
      this.requests += 1;
      request.resume();
      request.on("end", () => answer.writeHead(this.status, { "content-type": "application/json" }).end("{}"));
    });
    await new Promise((resolve) => server.listen(stage.receiver, "127.0.0.1", resolve));
    return this;
  }
}

/** A proxy that serves the host below a prefix, which it removes from paths. Returns its URL with the prefix, and the
 * paths that were asked for outside of it. */
export async function proxy(prefix) {
  const outside = [];
  const target = new URL(stage.url);
  const server = http.createServer((request, answer) => {
    if (!request.url.startsWith(prefix)) {
      outside.push(request.url);
      answer.writeHead(404).end();
      return;
    }
    const path = request.url.slice(prefix.length) || "/";
    const options = { host: target.hostname, port: target.port, method: request.method, path, headers: request.headers };
    const asked = http.request(options, (told) => {
      answer.writeHead(told.statusCode, told.headers);
      told.pipe(answer);
    });
    asked.on("error", () => answer.destroy());
    answer.on("close", () => asked.destroy());
    request.pipe(asked);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}${prefix}`, outside };
}
