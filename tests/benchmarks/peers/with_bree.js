// Bree; each job is a worker thread, as Bree has it, which starts its command. See bare_loop.py.
'use strict';
const path = require('node:path');
const readline = require('node:readline');
const Bree = require('bree');

let groups = null;
const input = readline.createInterface({ input: process.stdin });
input.on('line', async (line) => {
  if (groups === null) {
    groups = JSON.parse(line);
    console.log('ready');
    return;
  }
  const jobs = JSON.parse(line).flatMap((atNs, group) =>
    Object.entries(groups[group]).map(([name, command]) => ({
      name,
      path: path.join(__dirname, 'bree_job.js'),
      date: new Date(atNs / 1e6),
      worker: { workerData: { command } },
    })),
  );
  await new Bree({ root: false, logger: false, jobs }).start();
  console.log('taken');
});
input.on('close', () => process.exit(0));
