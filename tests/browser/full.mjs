// Every view of the cockpit in both themes at three widths, with the check of accessibility on each, and a picture of each
// view in both themes: `make browser-full`.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";

import { becomes, check, enqueue, launch, logIn, Receiver, send, stage, visit, visitor } from "./browser.mjs";

const WIDTHS = [360, 768, 1280];
/** The size of a picture in proportion to the view: small, and still readable. */
const SCALE = 0.6;

const receiver = await new Receiver().start();
const browser = await launch();

/** Something for every view: items in every status, a blocked key, a job, a pause, and things that operators did. */
async function seed() {
  assert.equal((await send("enqueue", "POST", "/memory", { text: "hello" })).status, 202);
  const done = await enqueue("order-0", { cid: "case-0", headers: { "x-tenant": "acme" } });
  await becomes(done, "DONE");
  receiver.status = 422;
  const dead = [];
  for (const number of [1, 2, 3]) dead.push(await enqueue(`order-${number}`, { cid: "case-1", metadata: { team: "billing" } }));
  const first = await enqueue("ordered-1", { ordering_key: "customer-7" });
  for (const id of [...dead, first]) await becomes(id, "DLQ");
  await enqueue("ordered-2", { ordering_key: "customer-7" });
  receiver.status = 503;
  await enqueue("retried", { payload: { number: 12345678901234567890n.toString(), text: "ü" } });
  const waiting = await enqueue("later", { delay_ms: 3_600_000 });
  await enqueue("nobody-serves-it", { type: "fax", payload: "AP8=", payload_encoding: "base64" });
  await send("operate", "POST", "/types/report/pause", { reason: "the printer is away", force: true });
  const order = { filter: { status: ["DLQ"], cid: "case-1" }, background: true, per_second: 1, reason: "the receiver is back" };
  const started = await send("operate", "POST", "/items:replay", order);
  const job = (await started.json()).job?.id ?? 1;
  const groups = await (await send("admin", "GET", "/failures")).json();
  return { done, dead: first, waiting, job, group: groups.failures[0].fingerprint };
}

const { done, dead, waiting, job, group } = await seed();

/** The views: a name, an address, and the status of the answer. Those with a picture have a name without a space. */
const VIEWS = [
  ["overview", "", 200],
  ["items", "/items", 200],
  ["items by filter", "/items?status=DLQ&status=PENDING&error=422", 200],
  ["items without a match", "/items?key_prefix=none-such", 200],
  ["item", `/items/${dead}`, 200],
  ["item that is done", `/items/${done}`, 200],
  ["item that waits", `/items/${waiting}`, 200],
  ["anew", `/items/${dead}/anew`, 200],
  ["failures", "/failures", 200],
  ["failures of retries", "/failures?status=PENDING", 200],
  ["failure", `/failures/${group}`, 200],
  ["act", `/act/replay?status=DLQ`, 200],
  ["purge", `/act/purge?ids=${dead}`, 200],
  ["sagas", "/sagas", 200],
  ["items that contain a text", "/items?text=order-1", 200],
  ["group without items", "/failures/0000000000000000", 404],
  ["plugins", "/plugins", 200],
  ["operations", "/operations", 200],
  ["job", `/jobs/${job}`, 200],
  ["control", "/control/unblock?ordering_key=customer-7", 200],
  ["search without a match", "/search?q=none-such-at-all", 404],
  ["problem", "/jobs/99999", 404],
  ["unknown filter", "/items?colour=red", 400],
];

let checked = 0;
const found = [];
for (const colorScheme of ["light", "dark"]) {
  for (const width of WIDTHS) {
    const size = { viewport: { width, height: width < 500 ? 740 : 820 } };
    const isPictured = width === WIDTHS.at(-1) && stage.pictures;
    const page = await visitor(browser, { colorScheme, ...size, ...(isPictured ? { deviceScaleFactor: SCALE } : {}) });
    const look = async (name, isTall = false) => {
      try {
        await check(page, `${name}, ${colorScheme}, ${width} px`);
      } catch (error) {
        found.push(error.message);
      }
      checked += 1;
      page.problems.length = 0;
      if (!isPictured || name.includes(" ")) return;
      mkdirSync(stage.pictures, { recursive: true });
      const path = `${stage.pictures}/${name}-${colorScheme}.jpg`;
      await page.screenshot({ path, type: "jpeg", quality: 60, fullPage: isTall });
    };
    await visit(page, "/cockpit", 401);
    await look("login");
    await logIn(page, "admin");
    for (const [name, path, status] of VIEWS) {
      const answer = await page.goto(`${stage.url}/cockpit${path}`);
      // A search that finds nothing may answer 200 with a page that says so.
      assert.ok(answer.status() === status || name.startsWith("search"), `${name} answers ${answer.status()}`);
      await look(name, name === "overview" || name === "item");
    }
    await visit(page, `/cockpit/items/${dead}`);
    await page.getByRole("button", { name: /^Try it/ }).click();
    await page.getByRole("heading", { level: 1, name: /would/ }).waitFor();
    await look("tried");
    await page.context().close();
  }
}
await browser.close();
console.log(`${checked} views were checked, of ${VIEWS.length + 2} in 2 themes at ${WIDTHS.length} widths`);
assert.deepEqual(found, [], found.join("\n"));
process.exit(0);
