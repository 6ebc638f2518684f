// What the server is asked, with the types of its answers.
// @ts-check

/** @typedef {{occlusion: string, confidence: number, on_top: boolean, top: number, top_name: string,
 *   top_confidence: number, other: number | null, other_name: string, other_confidence: number}} Said */
/** @typedef {{target: number, target_name: string, confidence: number, answers: Said[][], area: number[],
 *   forward_passes: number, seconds: number}} Answers */
/** @typedef {{id: string, name: string, sha256: string, size: [number, number], notes: string[],
 *   box: [number, number, number, number], classes: [number, string, number][]}} Uploaded */
/** @typedef {{id: string, do: string, state: string, ahead: number, stage: string, share: number,
 *   forward_passes: number, seconds: number, seconds_left: number | null, area: number | null, error: string | null,
 *   mask: string | null, found: boolean}} Happening */
/** @typedef {{id: string, state: string, error: string | null, result: any, files: Record<string, string>}} State */

/** What the server said is wrong, in one line. */
export class Refused extends Error {
  /** @param {number} status @param {string} detail */
  constructor(status, detail) { super(detail); this.status = status; }
}

/** The server cannot be reached. */
export class Gone extends Error {}

/** @param {string} path @param {RequestInit} [how] @returns {Promise<Response>} */
async function fetched(path, how) {
  let answer;
  try { answer = await fetch(path, how); } catch { throw new Gone("The server does not answer."); }
  if (answer.ok) return answer;
  let detail = `${answer.status} ${answer.statusText}`;
  try { detail = (await answer.json()).detail; } catch { /* no JSON: the status says it */ }
  throw new Refused(answer.status, String(detail));
}

/** @param {string} path @param {RequestInit} [how] @returns {Promise<any>} */
export async function get(path, how) { return (await fetched(path, how)).json(); }

/** @param {string} path @returns {Promise<ArrayBuffer>} */
export async function getBytes(path) { return (await fetched(path)).arrayBuffer(); }

/** @param {string} path @returns {Promise<Blob>} */
export async function getBlob(path) { return (await fetched(path)).blob(); }

/** @param {File} file @param {string} model @returns {Promise<Uploaded>} */
export function upload(file, model) {
  const form = new FormData();
  form.append("image", file, file.name);
  form.append("model", model);
  return get("/api/images", {method: "POST", body: form});
}

/** @param {string} image @param {object} part @param {AbortSignal} [signal] @returns {Promise<Answers>} */
export function ask(image, part, signal) {
  const how = {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(part), signal};
  return get(`/api/images/${image}/answers`, how);
}

/** @param {object} request @returns {Promise<string>} the id of the job */
export async function submit(request) {
  const form = new FormData();
  form.append("request", JSON.stringify(request));
  return (await get("/api/jobs", {method: "POST", body: form})).id;
}

/** @param {string} id */
export function cancel(id) { return get(`/api/jobs/${id}`, {method: "DELETE"}); }

/**
 * Listen to a job until it has ended.
 * @param {string} id @param {(happening: Happening) => void} tell
 * @returns {Promise<State>} how it ended; throws Gone where the server is, or knows nothing of the job any more
 */
export function listen(id, tell) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(`/api/jobs/${id}/events`);
    events.addEventListener("progress", event => tell(JSON.parse(event.data)));
    events.addEventListener("done", event => {
      events.close();
      tell(JSON.parse(event.data));
      get(`/api/jobs/${id}`).then(resolve, reject);
    });
    events.onerror = () => { events.close(); reject(new Gone("The server does not answer.")); };
  });
}

/** @param {number} milliseconds @returns {Promise<void>} */
export const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

/** Wait until the server is there. @returns {Promise<{started: string}>} */
export async function there() {
  for (;;) {
    try { return await get("/api/health"); } catch (error) {
      if (!(error instanceof Gone)) throw error;
      await pause(1000);
    }
  }
}
