"use strict";
// Figures come as server-sent events; pictures are asked for one by one, so that a slow browser
// gets fewer of them, and a page that nobody sees none.

const CHART_SECONDS = 120;
const OLD_SECONDS = 3;
const LIFE_TEXTS = { silent: "silent", gone: "gone" };

const find = (selector) => document.querySelector(selector);
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const seconds = () => performance.now() / 1000;
const text = (value, digits = 1) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const state = {
  nodes: [], // as the last event had them
  malformed: {},
  left_out: 0, // reports of nodes for which there was no room
  connected: false,
  chosen: "", // node and camera, as in the selector
  history: [], // {at, answers, latency} of the chosen camera
  paused: false,
  number: 0, // of the picture that is shown
  pictureAt: -Infinity,
  shownAt: [],
  abort: new AbortController(),
  points: { number: 0, at: -Infinity, abort: new AbortController() }, // the view from above
};

// What was chosen: its node, and its camera where there is one.
function chosen() {
  for (const node of state.nodes)
    for (const camera of node.cameras)
      if (keyOf(node, camera) === state.chosen) return { node, camera };
  const node = state.nodes.find((one) => state.chosen.startsWith(`${one.name} `)) ?? state.nodes[0];
  return { node, camera: undefined };
}

const keyOf = (node, camera) => `${node.name} ${camera.name}`;

function choose(key) {
  if (key === state.chosen) return;
  Object.assign(state, { chosen: key, history: [], number: 0, pictureAt: -Infinity, shownAt: [] });
  Object.assign(state.points, { number: 0, at: -Infinity });
  find("#picture").hidden = find("#points-picture").hidden = true;
  for (const asked of [state, state.points]) asked.abort.abort(); // for pictures of another camera
}

function listCameras() {
  const select = find("#camera");
  const all = state.nodes.flatMap((node) => node.cameras.map((camera) => [node, camera]));
  const keys = all.map(([node, camera]) => keyOf(node, camera));
  if (JSON.stringify(keys) !== select.dataset.keys) {
    select.dataset.keys = JSON.stringify(keys);
    const several = state.nodes.length > 1;
    select.replaceChildren(
      ...all.map(([node, camera]) =>
        element("option", { value: keyOf(node, camera) }, several ? `${node.name} ${camera.name}` : camera.name)),
    );
    if (!all.length) select.append(element("option", {}, "none yet"));
    select.disabled = !all.length;
  }
  if (!keys.includes(state.chosen) && keys.length) choose(keys[0]);
  if (keys.length) select.value = state.chosen;
}

// Level and sentence of the line above the picture.
function standing() {
  if (!state.connected) return ["error", "no connection", "upsnet view does not respond; this page resumes when it does."];
  const { node, camera } = chosen();
  if (!node) return ["warn", "no node", "No node has reported on /diagnostics yet. Start one in the same ROS domain: upsnet node --image-topic /your/camera/image_raw"];
  if (node.life !== "live") {
    const why = node.life === "gone" ? "has ended" : "says nothing";
    return ["error", LIFE_TEXTS[node.life], `${node.name} ${why}: no report for ${node.silent_for.toFixed(0)} s. This page resumes when it is back.`];
  }
  const worse = camera && camera.level && camera.level !== "ok" ? camera : node;
  const level = worse.level === "stale" ? "error" : worse.level;
  // A single camera has no name of its own, and is called "camera".
  const name = worse === node ? node.name : camera.name === "camera" ? "camera" : `camera ${camera.name}`;
  return [level, level === "ok" ? "live" : level, `${name}: ${worse.message}`];
}

// Why there is no picture, or only an old one; empty where it is fresh.
function curtain() {
  const { node, camera } = chosen();
  const [level, word] = standing();
  if (!state.connected || !node || node.life !== "live") return word;
  if (state.paused) return "paused";
  if (node.state !== "active") return `the node is ${node.state}`;
  if (!camera) return "no camera";
  if (!camera.overlay) return "the node shows no overlay: set its parameter publish_overlay";
  if (state.malformed[camera.overlay]) return `overlay cannot be read: ${state.malformed[camera.overlay]}`;
  const age = seconds() - state.pictureAt;
  if (age <= OLD_SECONDS) return "";
  // A slow network's pictures are far apart, and fresh all the same.
  if (age * 1000 < 3 * (camera.latency_ms ?? 0)) return "";
  if (level !== "ok") return camera.message || node.message;
  return age === Infinity ? "waiting for the first picture" : `no new picture for ${age.toFixed(0)} s`;
}

// Why there is no view of the points from above, or only an old one.
function pointsCurtain(camera) {
  const why = curtain();
  if (state.malformed[camera.points]) return `points cannot be read: ${state.malformed[camera.points]}`;
  const age = seconds() - state.points.at;
  if (age <= OLD_SECONDS || (why === "" && age * 1000 < 3 * (camera.latency_ms ?? 0))) return "";
  return why || (age === Infinity ? "waiting for the first points" : `no new points for ${age.toFixed(0)} s`);
}

function showPointsState() {
  const { camera } = chosen();
  find("#points").hidden = !camera?.points;
  if (!camera?.points) return;
  const why = pointsCurtain(camera);
  find("#points-curtain").hidden = why === "";
  find("#points-curtain").textContent = why;
  find("#points .screen").classList.toggle("old", why !== "");
}

function showState() {
  const [level, word, sentence] = standing();
  const line = find("#state");
  const told = `${word} ${sentence}`;
  if (line.dataset.told !== told) {
    line.dataset.told = told;
    line.dataset.level = level;
    line.replaceChildren(element("b", {}, word), sentence);
  }
  const why = curtain();
  find("#curtain").hidden = why === "";
  find("#curtain").textContent = why;
  find(".screen").classList.toggle("old", why !== "");
  showPointsState();
  const dead = level === "error" && ["silent", "gone", "no connection"].includes(word);
  find("#figures").classList.toggle("gone", dead);
  find(".tables").classList.toggle("gone", dead);
  while (state.shownAt.length && seconds() - state.shownAt[0] > 5) state.shownAt.shift();
}

const leftOut = () =>
  state.left_out ? { "reports of more nodes": `${state.left_out}, not listed` } : {};

function setTile(name, value, small) {
  const tile = find(`[data-figure=${name}]`);
  tile.querySelector(".value").textContent = value;
  const interval = tile.querySelector(".interval");
  if (interval) interval.textContent = small || "\u00a0";
}

function fill(selector, rows) {
  find(`${selector} tbody`).replaceChildren(...rows.map(([name, ...cells]) => {
    const row = element("tr", {}, element("th", { scope: "row" }, name));
    for (const [value, share] of cells) {
      const cell = element("td", { class: share === undefined ? "number" : "number share" }, value);
      if (share !== undefined) cell.style.setProperty("--share", share);
      row.append(cell);
    }
    return row;
  }));
}

function showFigures() {
  const { node, camera } = chosen();
  if (!node) return;
  const longest = Math.max(...node.stages.map((stage) => stage.median ?? 0), 1e-9);
  fill("#stages", node.stages.map((stage) => [
    stage.name.replaceAll("_", " "),
    [text(stage.median), (stage.median ?? 0) / longest],
    [text(stage.high)],
  ]));
  find("#facts").replaceChildren(...Object.entries({ node: node.name, ...node.facts, ...leftOut() }).map(
    ([key, value]) => element("div", {}, element("dt", {}, key.replaceAll("_", " ")), element("dd", {}, value)),
  ));
  const counts = camera?.counts ?? [];
  fill("#counts", counts.map((count) => [count.name, [String(count.total)], [text(count.rate)]]));
  find("#notes").replaceChildren(...(camera?.notes ?? []).map((note) => element("p", { class: "note" }, note)));
  const dropped = counts.find((count) => count.name === "dropped");
  setTile("arrivals", text(camera?.arrival_rate));
  setTile("answers", text(camera?.answer_rate));
  const high = camera?.latency_high_ms;
  setTile("latency", text(camera?.latency_ms, 0), high == null ? "" : `99 %: ${text(high, 0)} ms`);
  setTile("drops", text(dropped?.rate), dropped ? `${dropped.total} since start` : "");
}

function remember() {
  const { node, camera } = chosen();
  const live = camera && node.life === "live";
  const sample = { at: seconds(), answers: live ? camera.answer_rate : null, latency: live ? camera.latency_ms : null };
  state.history.push(sample);
  while (sample.at - state.history[0].at > CHART_SECONDS) state.history.shift();
}

function chart(title, unit, digits, valueOf) {
  const known = state.history.map(valueOf).filter((value) => value != null);
  const top = Math.max(...known, 10 ** -digits) * 1.1;
  const now = seconds();
  let path = "", broken = true;
  for (const sample of state.history) {
    const value = valueOf(sample);
    if (value == null) { broken = true; continue; }
    const x = 300 * (1 - (now - sample.at) / CHART_SECONDS), y = 78 * (1 - value / top) + 3;
    path += `${broken ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    if (broken) path += "h.1"; // a single value is a dot
    broken = false;
  }
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const least = known.length ? text(Math.min(...known), digits) : "–";
  const most = known.length ? text(Math.max(...known), digits) : "–";
  for (const [key, value] of Object.entries({
    viewBox: "0 0 300 84", preserveAspectRatio: "none", role: "img",
    "aria-label": `${title}: from ${least} to ${most} ${unit}`,
  })) svg.setAttribute(key, value);
  const line = document.createElementNS(space, "path");
  line.setAttribute("d", path);
  svg.append(line);
  const range = element("span", {}, `${least} to ${most} ${unit}`);
  return element("figure", {}, element("figcaption", {}, title, range), svg);
}

function onFigures(event) {
  Object.assign(state, JSON.parse(event.data), { connected: true });
  listCameras();
  remember();
  showFigures();
  find("#charts").replaceChildren(
    chart("answered", "frames/s", 1, (sample) => sample.answers),
    chart("median latency", "ms", 0, (sample) => sample.latency),
  );
  showState();
  document.body.dataset.ready = "true";
}

// Show the picture of an answer in place of the last one.
async function replacePicture(picture, answer) {
  const url = URL.createObjectURL(await answer.blob());
  const old = picture.src;
  picture.src = url;
  try {
    await picture.decode();
  } finally {
    if (old.startsWith("blob:")) URL.revokeObjectURL(old);
  }
  picture.hidden = false;
}

const takenAt = (answer) => seconds() - Number(answer.headers.get("X-Age"));
const stampOf = (answer) => `stamp ${Number(answer.headers.get("X-Stamp")).toFixed(3)}`;

async function showPicture(answer) {
  const picture = find("#picture");
  await replacePicture(picture, answer);
  const { camera } = chosen();
  state.number = Number(answer.headers.get("X-Number"));
  state.pictureAt = takenAt(answer);
  state.shownAt.push(seconds());
  const span = seconds() - state.shownAt[0];
  const rate = span > 0 ? (state.shownAt.length - 1) / span : null;
  picture.alt = `Overlay of camera ${camera?.name ?? ""}`;
  find("#caption").textContent =
    `${camera?.overlay ?? ""} · ${picture.naturalWidth} × ${picture.naturalHeight} px · ` +
    `${text(rate)} pictures/s here · ${stampOf(answer)}`;
  showState();
}

async function showPoints(answer) {
  const picture = find("#points-picture");
  await replacePicture(picture, answer);
  const { camera } = chosen();
  state.points.number = Number(answer.headers.get("X-Number"));
  state.points.at = takenAt(answer);
  picture.alt = `Labelled points of camera ${camera?.name ?? ""}, from above`;
  find("#points-caption").textContent = `${camera?.points ?? ""} from above · unknown in yellow · ${stampOf(answer)}`;
  showState();
}

// Ask for the pictures of one kind, one by one. `asked` has the number of the last and the request.
async function watch(asked, topicOf, show) {
  for (;;) {
    const { node, camera } = chosen();
    const topic = camera && topicOf(camera);
    if (state.paused || document.hidden || !topic || node.life !== "live") {
      await sleep(200);
      continue;
    }
    asked.abort = new AbortController();
    const query = new URLSearchParams({ topic, after: asked.number });
    try {
      const answer = await fetch(`/picture?${query}`, { signal: asked.abort.signal });
      if (answer.status === 200) await show(answer);
      else if (answer.status !== 204) await sleep(1000); // not offered any more, say the figures
    } catch (error) {
      // No connection, another camera, or a file that is no picture; the state line tells which.
      if (error.name !== "AbortError") await sleep(1000);
    }
  }
}

find("#camera").addEventListener("change", (event) => {
  choose(event.target.value);
  showFigures();
  showState();
});
find("#pause").addEventListener("click", () => {
  state.paused = !state.paused;
  const button = find("#pause");
  button.setAttribute("aria-pressed", state.paused);
  button.textContent = state.paused ? "Go on" : "Pause";
  if (state.paused) for (const asked of [state, state.points]) asked.abort.abort();
  showState();
});

const events = new EventSource("/events"); // which reconnects by itself
events.addEventListener("message", onFigures);
events.addEventListener("error", () => {
  state.connected = false;
  showState();
});
setInterval(showState, 500);
watch(state, (camera) => camera.overlay, showPicture);
watch(state.points, (camera) => camera.points, showPoints);
