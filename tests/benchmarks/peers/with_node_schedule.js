// node-schedule; each job starts its command by `execFile`. See bare_loop.py.
'use strict';
const { execFile } = require('node:child_process');
const readline = require('node:readline');
const schedule = require('node-schedule');

let groups = null;
const input = readline.createInterface({ input: process.stdin });
input.on('line', (line) => {
  if (groups === null) {
    groups = JSON.parse(line);
    console.log('ready');
    return;
  }
  JSON.parse(line).forEach((atNs, group) => {
    for (const [program, ...rest] of Object.values(groups[group])) {
      schedule.scheduleJob(new Date(atNs / 1e6), () => execFile(program, rest, () => {}));
    }
  });
  console.log('taken');
});
input.on('close', () => process.exit(0));
