// What a worker thread of with_bree.js does.
'use strict';
const { execFile } = require('node:child_process');
const { workerData } = require('node:worker_threads');

const [program, ...rest] = workerData.command ?? workerData.job.worker.workerData.command;
execFile(program, rest, () => {});
