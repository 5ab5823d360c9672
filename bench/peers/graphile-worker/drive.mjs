// One round of work by graphile-worker: `node drive.mjs URL SINGLES ITEMS`. The database is empty.
// The program prints its figures as one line of JSON; rates are in jobs per second. It uses the settings that the
// documentation of graphile-worker recommends for many short jobs: a local queue, filled in batches, and completions
// that are written in batches.

import { setTimeout as sleep } from "node:timers/promises";
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";

const [connectionString, singles, items] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const BULK = 1000;
const quiet = new Logger(() => (level, message) => level === "error" && console.error(message));
const preset = {
  worker: {
    connectionString,
    concurrentJobs: 24,
    maxPoolSize: 26,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
    logger: quiet,
  },
};

const pool = new pg.Pool({ connectionString, max: 1 });
const ask = async (sql) => Object.values((await pool.query(sql)).rows[0])[0];
const asked = { fsync: await ask("SHOW fsync"), synchronous_commit: await ask("SHOW synchronous_commit") };

const job = (n) => ({ identifier: "noop", payload: { n, text: "x".repeat(180) }, jobKey: `key-${n}` });
const rate = (count, begun) => (count * 1000) / (performance.now() - begun);

const utils = await makeWorkerUtils({ preset });
await utils.migrate();

let begun = performance.now();
for (let n = 0; n < singles; n++) {
  const { identifier, payload, jobKey } = job(n);
  await utils.addJob(identifier, payload, { jobKey });
}
const enqueue = rate(singles, begun);

begun = performance.now();
for (let n = singles; n < items; n += BULK) {
  await utils.addJobs(Array.from({ length: Math.min(BULK, items - n) }, (_, i) => job(n + i)));
}
const bulk = rate(items - singles, begun);

let handled = 0;
begun = performance.now();
const runner = await run({ preset, taskList: { noop: () => void handled++ } });
const left = () => ask("SELECT count(*)::int FROM graphile_worker.jobs");
while (handled < items || (await left()) > 0) await sleep(5);
const drain = rate(items, begun);

await runner.stop();
await utils.release();
await pool.end();
console.log(JSON.stringify({ ...asked, enqueue, bulk, drain, done: handled }));
