// Ask the server. Errors are Error objects whose message is the server's sentence.

async function checked(answer) {
  if (answer.ok) return answer;
  let text = `The app answered with status ${answer.status}.`;
  try { text = (await answer.json()).error || text; } catch { /* no JSON: keep the status */ }
  throw new Error(text);
}

async function send(address, options) {
  let answer;
  try { answer = await fetch(address, options); } catch { throw new Error("The app does not answer. Is it still running?"); }
  return checked(answer);
}

const asked = (address, body) => send(address, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

export const get = async (address) => (await send(address)).json();
export const post = async (address, body = {}) => (await asked(address, body)).json();
export const postForFile = async (address, body) => (await asked(address, body)).blob();
export const upload = async (file) => (await send(`/api/pictures?name=${encodeURIComponent(file.name)}`, { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file })).json();

// The shown pixels of a picture, as the viewer takes them.
export async function pixels(facts) {
  const raw = await (await send(`/api/pictures/${facts.id}/pixels`)).arrayBuffer(), { height, width, channels, bits } = facts.shown;
  return { height, width, channels, full: [facts.height, facts.width], pixels: bits === 16 ? new Uint16Array(raw) : new Uint8Array(raw) };
}
