// A night of an operator, in a browser: `make test-browser` walks it on each store.

import assert from "node:assert/strict";
import { readFileSync, renameSync, writeFileSync } from "node:fs";

import { becomes, check, enqueue, launch, logIn, proxy, Receiver, send, stage, until, visit, visitor } from "./browser.mjs";

/** What the first visit may load, in bytes, as they are sent. */
const FIRST_LOAD_MAX = 60 * 1024;

const receiver = await new Receiver().start();
const browser = await launch();
const steps = [];

/** Takes a step of the walk, and says how long it took. */
async function step(name, run) {
  const begun = Date.now();
  try {
    await run();
  } catch (error) {
    error.message = `${name}: ${error.message}`;
    throw error;
  }
  steps.push(name);
  console.log(`${String(Date.now() - begun).padStart(6)} ms  ${name}`);
}

/** The number in a row of a table. */
const row = (page, name) => page.getByRole("row").filter({ has: page.getByRole("rowheader", { name, exact: true }) });

/** Gives the reason on the page of an action, and confirms it. */
async function confirm(page, reason, button) {
  await page.getByLabel("Reason").fill(reason);
  await page.getByRole("button", { name: button }).click();
}

const page = await visitor(browser);

await step("a wrong token is refused, and the first load is small", async () => {
  let bytes = 0;
  const measure = async (request) => {
    const sizes = await request.sizes();
    bytes += sizes.responseBodySize;
  };
  page.on("requestfinished", measure);
  const answer = await page.goto(`${stage.url}/`);
  assert.equal(answer.status(), 401);
  const policy = answer.headers()["content-security-policy"];
  assert.ok(policy.includes("default-src 'none'") && !policy.includes("unsafe"), policy);
  await check(page, "the log-in");
  await page.getByLabel("Token").fill("guess");
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("alert").waitFor();
  await check(page, "a log-in that was wrong");
  await logIn(page, "operate");
  await page.getByRole("heading", { level: 1 }).waitFor();
  assert.ok(bytes > 5_000 && bytes <= FIRST_LOAD_MAX, `the first load has ${bytes} bytes`);
  page.off("requestfinished", measure);
  await check(page, "the overview of an empty store");
});

await step("a saga moves on the overview, which refreshes itself and can be paused", async () => {
  await visit(page, "/cockpit");
  assert.equal((await send("enqueue", "POST", "/memory", { text: "hello" })).status, 202);
  const begun = page.locator("section").filter({ has: page.getByRole("heading", { name: /WriteMemorySaga/ }) });
  await begun.getByText(/1 runs?/).waitFor();
  await begun.getByRole("listitem").filter({ hasText: /^end/ }).getByText("1", { exact: true }).waitFor();
  await check(page, "the overview");
  await page.getByRole("link", { name: "See all sagas" }).click();
  await page.getByRole("heading", { level: 1, name: /saga/ }).waitFor();
  await check(page, "sagas");
  await visit(page, "/cockpit");
  const live = page.getByRole("button", { name: /live|paused/ });
  await live.click();
  assert.equal(await live.innerText(), "paused");
  await live.click();
  await page.route("**/cockpit", (route) => route.fulfill({ status: 503, body: "" }));
  await page.getByRole("button", { name: "not live: 503" }).waitFor();
  await page.unroute("**/cockpit");
  await page.getByRole("button", { name: "live", exact: true }).waitFor();
});

const dead = [];
await step("items die, and the overview says that they need somebody", async () => {
  receiver.status = 422;
  for (const number of [1, 2, 3]) {
    dead.push(await enqueue(`order-${number}`, { cid: `case-${number}`, headers: { "x-tenant": "acme" } }));
  }
  for (const id of dead) await becomes(id, "DLQ");
  await visit(page, "/cockpit");
  await page.getByRole("link", { name: /3 dead letters/ }).waitFor();
  await check(page, "the overview with dead items");
});

await step("a dead item is found by its correlation id, and says why it is dead", async () => {
  await page.keyboard.press("/");
  assert.ok(await page.getByRole("searchbox").evaluate((box) => box === document.activeElement));
  await page.keyboard.type("case-2");
  await page.keyboard.press("Enter");
  await page.waitForURL(/case-2|\/items\//);
  if (!/\/items\/\d+$/.test(page.url())) await page.getByRole("link", { name: String(dead[1]), exact: true }).click();
  await page.getByRole("heading", { level: 1, name: new RegExp(`Item ${dead[1]}`) }).waitFor();
  const why = await page.locator("p.why").innerText();
  assert.ok(why.length > 20, why);
  assert.match(await page.locator("main").innerText(), /422/);
  await check(page, "an item");
});

await step("one is tried first: in a simulation, which sends nothing", async () => {
  const before = receiver.requests;
  await page.getByRole("button", { name: /^Try it/ }).click();
  await page.getByRole("heading", { level: 1, name: /would fail again/ }).waitFor();
  assert.match(await page.locator("main").innerText(), /Nothing was sent, and nothing was stored/);
  assert.match(await page.getByRole("table").innerText(), /POST[^]*the recording/);
  await check(page, "a trial");
  assert.equal(receiver.requests, before);
  await page.getByRole("link", { name: "Back to the item" }).click();
});

await step("then it is replayed alone and done", async () => {
  receiver.status = 200;
  await page.getByRole("button", { name: "Replay…" }).click();
  await page.getByRole("heading", { level: 1, name: /Replay/ }).waitFor();
  assert.match(await page.getByRole("note").innerText(), /Duplicates/);
  await check(page, "the page before an action");
  await confirm(page, "trying one", /^Replay 1 item$/);
  await becomes(dead[1], "DONE");
  await check(page, "the page after an action");
});

await step("its group is reached from an item, is replayed as a job, and is done", async () => {
  await visit(page, "/cockpit/failures");
  await check(page, "failures");
  await visit(page, `/cockpit/items/${dead[0]}`);
  await page.getByRole("link", { name: /failed alike/ }).click();
  await check(page, "a group of failures");
  await page.getByRole("link", { name: /Replay the group/ }).click();
  await confirm(page, "the receiver is back", /^Replay 2 items$/);
  await page.waitForURL(/\/cockpit\/jobs\/\d+$/);
  for (const id of [dead[0], dead[2]]) await becomes(id, "DONE");
  await page.reload();
  await page.getByRole("heading", { level: 1 }).getByText("DONE").waitFor();
  await check(page, "a job");
});

await step("what was done is in the audit trail under the name of the token", async () => {
  await visit(page, "/cockpit/operations");
  for (const reason of ["trying one", "the receiver is back"]) {
    const entry = page.getByRole("row").filter({ hasText: reason }).filter({ hasText: "the-operate" });
    await entry.first().waitFor();
  }
  await check(page, "operations");
});

await step("a type is paused and resumed", async () => {
  await page.getByLabel("Pause a type").fill("webhook");
  await page.getByRole("button", { name: "Pause…" }).click();
  await confirm(page, "maintenance of the receiver", "Pause");
  const held = page.getByRole("row").filter({ hasText: "webhook" }).filter({ hasText: "maintenance" });
  await held.getByRole("link").click();
  await check(page, "the page before a control");
  await confirm(page, "over", "Resume");
  await page.getByText("Nothing is paused").waitFor();
});

await step("a payload is edited and enqueued anew, and the old item stays", async () => {
  const admin = await visitor(browser);
  await logIn(admin, "admin");
  await visit(admin, `/cockpit/items/${dead[0]}`);
  await admin.getByRole("link", { name: /Edit and enqueue anew/ }).click();
  await check(admin, "the page for a new payload");
  await admin.getByLabel("Payload").fill("{");
  await confirm(admin, "the amount was wrong", "Enqueue");
  await admin.getByRole("alert").waitFor();
  assert.equal(await admin.getByLabel("Reason").inputValue(), "the amount was wrong");
  await check(admin, "the page for a new payload that was wrong");
  admin.problems.length = 0;
  await admin.context().clearCookies();
  await admin.getByLabel("Payload").fill('{"order":"order-1","corrected":true}');
  await confirm(admin, "the amount was wrong", "Enqueue");
  await admin.getByText("It comes back after the log-in").waitFor();
  await check(admin, "a log-in that ended an edit");
  await admin.getByLabel("Token").fill(stage.tokens.admin);
  await admin.getByRole("button", { name: "Log in" }).click();
  await admin.getByRole("alert").getByText("the session had ended").waitFor();
  assert.equal(await admin.getByLabel("Payload").inputValue(), '{"order":"order-1","corrected":true}');
  assert.equal(await admin.getByLabel("Reason").inputValue(), "the amount was wrong");
  await check(admin, "an edit after a log-in");
  admin.problems.length = 0;
  await admin.getByRole("button", { name: "Enqueue" }).click();
  await admin.getByRole("heading", { level: 1, name: /Item \d+/ }).waitFor();
  const created = Number(/\/items\/(\d+)/.exec(admin.url())[1]);
  assert.notEqual(created, dead[0]);
  const item = await (await send("admin", "GET", `/items/${created}`)).json();
  assert.deepEqual([item.payload.corrected, String(item.metadata.anew_from)], [true, String(dead[0])]);
  const old = await (await send("admin", "GET", `/items/${dead[0]}`)).json();
  assert.equal(old.payload.corrected, undefined);
  await admin.context().close();
});

await step("a broken plugin is named with its fault, and a repaired one runs", async () => {
  const file = `${stage.plugins}/webhook.wasm`;
  const whole = readFileSync(file);
  const put = (bytes) => {
    writeFileSync(`${file}.new`, bytes);
    renameSync(`${file}.new`, file);
  };
  put(Buffer.from("no component"));
  const trouble = page.getByRole("heading", { name: /webhook does not run/ });
  await until("the fault is shown", async () => {
    await visit(page, "/cockpit/plugins");
    return await trouble.count() > 0;
  });
  await check(page, "plugins with a fault");
  put(whole);
  await until("the fault is gone", async () => {
    await visit(page, "/cockpit/plugins");
    return await trouble.count() === 0;
  });
  await check(page, "plugins");
  await becomes(await enqueue("after-repair"), "DONE");
});

await step("each role sees its own part, and is told which right it lacks", async () => {
  for (const role of ["read", "enqueue", "scrape"]) {
    const other = await visitor(browser);
    await logIn(other, role);
    if (role === "read") {
      await visit(other, `/cockpit/items/${dead[0]}`);
      assert.equal(await other.getByRole("button", { name: "Replay…" }).count(), 0);
      assert.match(await other.locator("main").innerText(), /read-payload/);
      assert.doesNotMatch(await other.content(), /order-1&quot;|"order":"order-1"/);
      await visit(other, `/cockpit/act/replay?ids=${dead[0]}`, 403);
      assert.match(await other.locator("main").innerText(), /operate/);
    } else {
      await visit(other, "/cockpit", 403);
      assert.match(await other.locator("main").innerText(), /`?read`?/);
    }
    await check(other, `a refusal of ${role}`);
    await other.context().close();
  }
});

await step("what is wrong with a request is said on a page, and nothing changes", async () => {
  await visit(page, "/cockpit/items?colour=red", 400);
  await check(page, "an unknown filter");
  await visit(page, "/cockpit/jobs/99999", 404);
  await check(page, "a job that does not exist");
  await visit(page, "/cockpit/items/none-such", 404);
  await visit(page, "/cockpit/none-such", 404);
  const cookies = await page.context().cookies();
  const session = cookies.find((cookie) => cookie.name.endsWith("outbox_session"));
  const forged = await visitor(browser);
  await forged.context().addCookies([{ ...session, value: session.value.replace(/.$/, (last) => last === "x" ? "y" : "x") }]);
  await visit(forged, "/cockpit", 401);
  await forged.getByLabel("Token").waitFor();
  await forged.context().close();
});

await step("a form of another site is refused, and nothing changes", async () => {
  const cookies = await page.context().cookies();
  const cookie = cookies.map(({ name, value }) => `${name}=${value}`).join("; ");
  const order = new URLSearchParams({ type: "webhook", reason: "forged" });
  for (const headers of [
    { "sec-fetch-site": "cross-site", origin: "https://evil.example" },
    { origin: "https://evil.example" },
    { "sec-fetch-site": "same-origin" },
    {},
  ]) {
    const answer = await fetch(`${stage.url}/cockpit/control/pause?type=webhook`, {
      method: "POST",
      redirect: "manual",
      headers: { cookie, "content-type": "application/x-www-form-urlencoded", ...headers },
      body: order,
    });
    assert.equal(answer.status, 403, JSON.stringify(headers));
  }
  const pauses = await (await send("admin", "GET", "/pauses")).json();
  assert.deepEqual(pauses.pauses, []);
});

await step("the pages work below a path of a proxy", async () => {
  const { url, outside } = await proxy("/ops/outbox");
  const other = await visitor(browser);
  await logIn(other, "operate", url);
  for (const [tab, title] of [["Items", /item/i], ["Failures", /./], ["Plugins", /./], ["Operations", /./], ["Overview", /./]]) {
    await other.getByRole("navigation").getByRole("link", { name: tab }).click();
    await other.getByRole("heading", { level: 1, name: title }).waitFor();
    assert.ok(other.url().startsWith(url), other.url());
  }
  await visit(other, `/cockpit/items/${dead[0]}`, 200, url);
  await other.getByRole("button", { name: "Replay…" }).click();
  await confirm(other, "below a path", /^Replay 1 item$/);
  await other.getByRole("heading", { level: 1 }).waitFor();
  assert.ok(other.url().startsWith(url), other.url());
  assert.deepEqual(outside.filter((path) => path !== "/favicon.ico"), []);
  assert.deepEqual(other.problems, []);
  await other.context().close();
});

await step("every view is useful without scripts", async () => {
  const other = await visitor(browser, { javaScriptEnabled: false });
  await logIn(other, "operate");
  await other.getByRole("navigation").getByRole("link", { name: "Items" }).click();
  await other.getByRole("searchbox").fill("order-3");
  await other.getByRole("searchbox").press("Enter");
  await other.getByRole("heading", { level: 1, name: new RegExp(`Item ${dead[2]}|item`, "i") }).waitFor();
  await visit(other, `/cockpit/items/${dead[2]}`);
  await other.getByRole("button", { name: "Replay…" }).click();
  await confirm(other, "without scripts", /^Replay 1 item$/);
  await other.getByRole("heading", { level: 1 }).waitFor();
  await becomes(dead[2], "DONE");
  await other.context().close();
});

await step("the views fit a narrow screen in the dark", async () => {
  const other = await visitor(browser, { viewport: { width: 360, height: 740 }, colorScheme: "dark" });
  await logIn(other, "operate");
  for (const path of ["", "/items", `/items/${dead[0]}`, "/failures", "/plugins", "/operations"]) {
    await visit(other, `/cockpit${path}`);
    await check(other, `/cockpit${path} at 360 px in the dark`);
  }
  await other.context().close();
});

await step("a log-out ends the session", async () => {
  await visit(page, "/cockpit");
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByLabel("Token").waitFor();
  await visit(page, "/cockpit/items", 401);
});

await browser.close();
console.log(`${steps.length} steps`);
process.exit(0);
