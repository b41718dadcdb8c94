// A real tRPC backend for the tests: the procedures of the original backend, with its
// error formatter and its token check, by the libraries of today or ("--old") by those
// that the original locks. It fails on demand and records what it was asked.
//
// Its state is read at GET /_state and changed by PUT /_state (a JSON object of changes).
// It says its port on standard output and leaves when its standard input ends.

import { createServer } from "node:http";
import { gzipSync } from "node:zlib";

const old = process.argv.includes("--old");
const { initTRPC, TRPCError } = await import(old ? "trpc-server-rc482" : "@trpc/server");
const { fetchRequestHandler } = await import(
  old ? "trpc-server-rc482/adapters/fetch" : "@trpc/server/adapters/fetch"
);
const { default: superjson } = await import(old ? "superjson-221" : "superjson");
const { z, ZodError } = await import(old ? "zod-3238" : "zod");

const state = {
  actions: [], // as JSON; dates become Date, and so noted by superjson
  token: "", // "" lets everybody in
  mutation: true, // whether setExecutionStatus is there
  strict: false, // whether answers are held against a schema
  knownOnly: false, // whether a status of an unknown action is NOT_FOUND
  refuse: {}, // action id: the tRPC code its status is refused with
  fault: "", // a name of `faults`
  code: "INTERNAL_SERVER_ERROR", // what the fault "error" throws
  after: 0, // so many requests are spared first
  retryAfter: "",
  asked: [], // { method, path, query, headers, body }
  connections: 0,
  statuses: [], // { id, executionStatus, at, key, outcome: "applied" | "duplicate" }
};

const t = initTRPC.context().create({
  transformer: superjson,
  errorFormatter: ({ shape, error }) => ({
    ...shape,
    data: { ...shape.data, zodError: error.cause instanceof ZodError ? error.cause.flatten() : null },
  }),
});

const authorised = t.procedure.use(({ ctx, next }) => {
  if (state.token && ctx.authorization?.split("Bearer ")[1] !== state.token) {
    throw new TRPCError({ code: "UNAUTHORIZED" });
  }
  if (ctx.fault === "error") throw new TRPCError({ code: state.code, message: "as told" });
  if (ctx.fault === "crash") throw new Error("no such table: actions");
  return next();
});

const Action = z.object({
  id: z.string(),
  appNames: z.array(z.string()),
  executionStatus: z.string().optional(),
  shouldBeExecuted: z.boolean(),
  fromDate: z.date(),
  toDate: z.date(),
});

const Status = z.object({
  id: z.string(),
  executionStatus: z.enum(["STARTED", "WONT_START", "WONT_FINISH", "FINISHED", "FAILED"]),
  at: z.date(),
  idempotencyKey: z.string().optional(),
});

const asDate = (text) => (/^\d{4}-.*Z$/.test(text) ? new Date(text) : text);

function allActions() {
  return state.actions.map((action) =>
    action === null || typeof action !== "object"
      ? action
      : {
          executionStatus: undefined,
          ...action,
          fromDate: asDate(action.fromDate),
          toDate: asDate(action.toDate),
        },
  );
}

function take({ id, executionStatus, at, idempotencyKey: key }) {
  if (state.refuse[id]) throw new TRPCError({ code: state.refuse[id], message: `no: ${id}` });
  if (state.knownOnly && !state.actions.some((action) => action.id === id)) {
    throw new TRPCError({ code: "NOT_FOUND", message: `no action ${id}` });
  }
  const status = { id, executionStatus, at: at.toISOString(), key };
  const before = state.statuses.find((known) => key && known.key === key);
  if (before && ["id", "executionStatus", "at"].some((name) => before[name] !== status[name])) {
    throw new TRPCError({ code: "CONFLICT", message: "the key came with another status" });
  }
  state.statuses.push({ ...status, outcome: before ? "duplicate" : "applied" });
  return { id, executionStatus, duplicate: Boolean(before), receivedAt: new Date() };
}

function router() {
  const getAll = state.strict ? authorised.output(z.array(Action)) : authorised;
  const actions = { getAll: getAll.query(allActions) };
  if (state.mutation) {
    actions.setExecutionStatus = authorised.input(Status).mutation(({ input }) => take(input));
  }
  return t.router({ actions: t.router(actions) });
}

async function answered(request, body, fault) {
  const { method, url, headers } = request;
  return fetchRequestHandler({
    endpoint: "/api/trpc",
    req: new Request(`http://127.0.0.1${url}`, {
      method,
      headers,
      body: method === "POST" ? body : undefined,
    }),
    router: router(),
    createContext: () => ({ authorization: headers.authorization, fault }),
    responseMeta: () => (state.retryAfter ? { headers: { "retry-after": state.retryAfter } } : {}),
  });
}

// Each gets the node response, and the real answer as { status, text }.
const listed = (text) => `[${text}]`;
const send = (out, status, body, headers = {}) => {
  out.writeHead(status, { "content-type": "application/json", ...headers });
  out.end(body);
};
const faults = {
  html: (out) => send(out, 200, "<!doctype html><p>Welcome", { "content-type": "text/html" }),
  "html-502": (out) => send(out, 502, "<html>Bad Gateway", { "content-type": "text/html" }),
  "html-404": (out) => send(out, 404, "<html>Not Found", { "content-type": "text/html" }),
  "html-401": (out) => send(out, 401, "<html>Log in", { "content-type": "text/html" }),
  redirect: (out) => send(out, 307, "", { location: "/api/auth/login" }),
  empty: (out) => send(out, 200, ""),
  garbage: (out) => send(out, 200, Buffer.from([...Array(256).keys()])),
  deep: (out) => send(out, 200, "[".repeat(200000)),
  "truncated-clean": (out, { text }) => send(out, 200, text.slice(0, text.length / 2)),
  "truncated-length": (out, { text }) => {
    out.writeHead(200, { "content-length": text.length });
    out.write(text.slice(0, text.length / 2), () => out.destroy());
  },
  "truncated-chunked": (out, { text }) => {
    out.writeHead(200, { "transfer-encoding": "chunked" });
    out.write(text.slice(0, text.length / 2), () => out.destroy());
  },
  reset: (out) => out.socket.resetAndDestroy(),
  silent: () => {},
  gzip: (out, { text }) => send(out, 200, gzipSync(text), { "content-encoding": "gzip" }),
  plain: (out, { status, text }) => send(out, status, text, { "content-type": "text/plain;charset=UTF-8" }),
  batched: (out, { status, text }) => send(out, status, listed(text)),
  "batched-207": (out, { text }) => send(out, 207, listed(text)),
  "two-207": (out, { text }) => send(out, 207, listed(`${text},${text}`)),
  "none-200": (out) => send(out, 200, "[]"),
  "error-200": (out, { text }) => send(out, 200, text),
  // What is JSON and no answer to the question.
  "no-result": (out) => send(out, 200, "{}"),
  null: (out) => send(out, 200, "null"),
  bare: (out) => send(out, 200, "[{}]"),
  "no-data": (out) => send(out, 200, '{"result":{}}'),
  "no-json": (out) => send(out, 200, '{"result":{"data":[]}}'),
  "null-json": (out) => send(out, 200, '{"result":{"data":{"json":null}}}'),
  "not-a-list": (out) => send(out, 200, '{"result":{"data":{"json":{}}}}'),
  "not-utf8": (out) => send(out, 200, Buffer.from('{"result":{"data":{"json":[]},"x":"\xff"}}', "latin1")),
};

async function serve(request, out) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const body = Buffer.concat(pieces).toString();
  const { pathname: path, searchParams } = new URL(request.url, "http://127.0.0.1");
  if (path === "/_state") {
    if (request.method === "PUT") Object.assign(state, JSON.parse(body));
    return send(out, 200, JSON.stringify(state));
  }
  const query = Object.fromEntries(searchParams);
  state.asked.push({ method: request.method, path, query, headers: request.headers, body });
  const fault = state.fault && state.after-- > 0 ? "" : state.fault;
  const answer = await answered(request, body, fault);
  const text = await answer.text();
  if (fault in faults) return faults[fault](out, { status: answer.status, text });
  out.writeHead(answer.status, Object.fromEntries(answer.headers));
  out.end(text);
}

const server = createServer((request, out) => {
  serve(request, out).catch((error) => {
    console.error(error);
    out.destroy();
  });
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
server.on("connection", () => (state.connections += 1));
process.stdin.on("end", () => process.exit(0)).resume();
