// Services of the kind that sits in front of a crew, plain Node 20, nothing to install:
//
//   node cases.mjs NAME [PORT]        with OPENAI_BASE_URL and OPENAI_API_KEY in the environment
//
// POST /cases {"customerId": "…"} answers with a summary of the customer's case. Each NAME has
// one fault, or none. Types are told in JSDoc: `tsc --checkJs` reads them.
// It prints one JSON line when it listens, and one or more for each request (pino's fields).
import { createServer } from "node:http";
import { setTimeout as delay } from "node:timers/promises";

/**
 * @typedef {{customerId: string, sections?: string[]}} Case
 * @typedef {{id: string, signal: AbortSignal}} Context
 * @typedef {(body: Case, context: Context) => Promise<unknown>} Handler
 */

class HttpError extends Error {
  /** @param {number} status @param {string} message @param {Record<string, string>} [headers] */
  constructor(status, message, headers = {}, options = {}) {
    super(message, options);
    this.status = status;
    this.headers = headers;
  }
}

/** @param {Record<string, unknown>} fields */
const log = (fields) =>
  process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), ...fields })}\n`);

const base = process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:9/v1";

/**
 * One model call. What the provider answers is thrown as it came.
 * @param {string} prompt @param {Context} context
 */
async function model(prompt, { id, signal }) {
  const began = performance.now();
  const response = await fetch(`${base}/chat/completions`, {
    method: "POST",
    signal,
    headers: {
      "content-type": "application/json",
      authorization: `Bearer ${process.env.OPENAI_API_KEY}`,
    },
    body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: prompt }] }),
  });
  const text = await response.text();
  const call = { requestId: id, model: "gpt-4o-mini", durationMs: performance.now() - began };
  if (!response.ok) {
    const err = { type: "APIError", message: `${response.status} ${text}`, status: response.status };
    log({ level: "error", msg: "model call failed", ...call, err });
    const wait = response.headers.get("retry-after");
    throw new HttpError(response.status, text, wait ? { "retry-after": wait } : {});
  }
  log({ level: "info", msg: "model call", ...call });
  return JSON.parse(text).choices[0].message.content;
}

/** @template T @param {number} tries @param {() => Promise<T>} work @returns {Promise<T>} */
async function retried(tries, work) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt >= tries || !(error instanceof HttpError)) throw error;
      await delay(50 * 2 ** attempt);
    }
  }
}

/** @param {string} customerId */
async function lookUp(customerId) {
  await delay(5 + Math.random() * 40); // the case store
  return { customerId, notes: `notes of ${customerId}` };
}

// --- one tool object for the process, and one for each request -------------------------------

class CaseTool {
  /** @type {{customerId: string, notes: string} | undefined} */
  record;
  /** @type {string | undefined} */
  customerId;

  /** @param {string} customerId */
  async load(customerId) {
    this.customerId = customerId;
    this.record = undefined;
    this.record = await lookUp(this.customerId);
  }

  /** @param {Context} context */
  async summarize(context) {
    await model("Summarize the case.", context);
    return { customerId: this.customerId, summary: this.record.notes.trim() };
  }
}

const sharedTool = new CaseTool();

/** @type {Handler} */
async function shared(body, context) {
  await sharedTool.load(body.customerId);
  return sharedTool.summarize(context);
}

/** @type {Handler} */
async function fixed(body, context) {
  const tool = new CaseTool();
  await tool.load(body.customerId);
  return tool.summarize(context);
}

/** The quiet form: nobody's data is in the answer, it only breaks. @type {Handler} */
async function sharedQuiet(body, context) {
  await sharedTool.load(body.customerId);
  await model("Summarize the case.", context);
  const words = sharedTool.customerId === body.customerId ? sharedTool.record.notes.length : 0;
  if (!words) throw new Error("crew failed");
  return { words };
}

// --- the provider's limit ---------------------------------------------------------------------

/** Two tries, and then it is an error like any other. @type {Handler} */
const limited = async (body, context) => ({
  summary: await retried(2, () => model(`Case ${body.customerId}`, context)).catch((cause) => {
    throw new Error("Failed to execute crew", { cause });
  }),
});

/** The caller is told what to do: 429 with Retry-After. @type {Handler} */
const passed = async (body, context) => ({
  summary: await model(`Case ${body.customerId}`, context),
});

// --- the platform's deadline ------------------------------------------------------------------

const platformMs = Number(process.env.PLATFORM_SECONDS ?? 10) * 1000;

/** Each call queues behind the others for a while: fine alone, too long for a crowd. */
let queue = 0;
/** @type {Handler} */
async function slow(body, context) {
  queue += 1;
  try {
    await delay(0.15 * platformMs * queue, undefined, { signal: context.signal });
    return { summary: await model(`Case ${body.customerId}`, context) };
  } finally {
    queue -= 1;
  }
}

// --- a call for each section, all at once -----------------------------------------------------

/** @type {Handler} */
async function fanOut(body, context) {
  const sections = body.sections ?? Array.from({ length: 12 }, (_, i) => `section ${i + 1}`);
  const parts = await Promise.all(sections.map((each) => model(`Write ${each}.`, context)));
  return { customerId: body.customerId, parts: parts.length };
}

// --- work on the one thread there is ----------------------------------------------------------

/** @type {Handler} */
async function blocking(body, context) {
  const until = performance.now() + 60;
  let scored = 0; // a document split and scored, in one callback
  while (performance.now() < until) scored += Math.sqrt(scored + 1);
  return { customerId: body.customerId, summary: await model(`Score ${scored > 0}`, context) };
}

/** @type {Handler} */
const healthy = async (body, context) => ({
  customerId: body.customerId,
  summary: await retried(3, () => model(`Case ${body.customerId}`, context)),
});

/** @type {Record<string, Handler>} */
const handlers = {
  shared,
  fixed,
  "shared-quiet": sharedQuiet,
  limited,
  passed,
  slow,
  "fan-out": fanOut,
  blocking,
  healthy,
  "keep-alive": healthy,
};

const [name = "healthy", port = "0"] = process.argv.slice(2);
const handler = handlers[name];
if (!handler) {
  console.error(`no service ${name}: one of ${Object.keys(handlers).join(", ")}`);
  process.exit(2);
}

/** @type {WeakMap<import("node:net").Socket, number>} */
const served = new WeakMap();

const server = createServer(async (request, response) => {
  const id = String(request.headers["x-request-id"] ?? "");
  const began = performance.now();
  const turns = (served.get(request.socket) ?? 0) + 1;
  served.set(request.socket, turns);
  if (name === "keep-alive" && turns > 1 && Math.random() < 0.5) {
    request.socket.resetAndDestroy(); // its idle time was over just as the next request arrived
    return;
  }
  /** @param {number} status @param {unknown} body @param {Record<string, string>} [headers] */
  const answer = (status, body, headers = {}) => {
    if (response.writableEnded) return;
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(JSON.stringify(body));
    const durationMs = performance.now() - began;
    log({ level: "info", msg: "request completed", requestId: id, statusCode: status, durationMs });
  };
  if (request.method !== "POST" || request.url !== "/cases") {
    return answer(404, { error: "not found" });
  }
  const platform = new AbortController();
  const deadline = setTimeout(() => {
    platform.abort();
    answer(500, { error: "Internal Server Error" });
  }, platformMs);
  try {
    let text = "";
    for await (const chunk of request) text += chunk;
    const body = JSON.parse(text);
    if (typeof body.customerId !== "string") return answer(422, { error: "customerId is missing" });
    answer(200, await handler(body, { id, signal: platform.signal }));
  } catch (error) {
    if (!(error instanceof Error) || platform.signal.aborted) return;
    const chain = error.cause instanceof Error ? error.cause.message : undefined;
    const err = { type: error.name, message: error.message, stack: error.stack, cause: chain };
    log({ level: "error", msg: "request failed", requestId: id, err });
    const passes = name === "passed" && error instanceof HttpError && error.status === 429;
    if (passes) answer(429, { error: "Too many requests" }, error.headers);
    else answer(500, { error: "Internal Server Error" });
  } finally {
    clearTimeout(deadline);
  }
});

server.listen(Number(port), "127.0.0.1", () => {
  const address = server.address();
  log({ level: "info", msg: "listening", port: typeof address === "object" && address?.port });
});
