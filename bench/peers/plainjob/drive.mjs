// One round of work by plainjob: `node drive.mjs FOLDER SINGLES ITEMS`. FOLDER is empty.
// The program prints its figures as one line of JSON; rates are in items per second.

import path from "node:path";
import Database from "better-sqlite3";
import { JobStatus, better, defineQueue, defineWorker } from "plainjob";

const [folder, singles, items] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const quiet = { debug() {}, info() {}, warn: console.warn, error: console.error };

const database = new Database(path.join(folder, "plainjob.db"));
const queue = defineQueue({ connection: better(database), logger: quiet });
// plainjob sets NORMAL when it opens the database, and a power cut could then lose acknowledged work.
database.pragma("synchronous = FULL");
const asked = {
  journal_mode: database.pragma("journal_mode", { simple: true }),
  synchronous: database.pragma("synchronous", { simple: true }),
};

const payload = (n) => ({ n, text: "x".repeat(180) });
const rate = (count, begun) => (count * 1000) / (performance.now() - begun);

let begun = performance.now();
for (let n = 0; n < singles; n++) queue.add("noop", payload(n));
const enqueue = rate(singles, begun);

begun = performance.now();
queue.addMany("noop", Array.from({ length: items - singles }, (_, n) => payload(singles + n)));
const bulk = rate(items - singles, begun);

let handled = 0;
const worker = defineWorker("noop", () => {}, {
  queue,
  logger: quiet,
  onCompleted: () => {
    if (++handled === items) worker.stop();
  },
});
begun = performance.now();
await worker.start();
const drain = rate(items, begun);

const done = queue.countJobs({ status: JobStatus.Done });
queue.close();
console.log(JSON.stringify({ ...asked, enqueue, bulk, drain, done }));
