// The page's side of the dashboard: charts, and some load for them to show.

import { Connection } from "./connection.js";

const find = (id) => document.getElementById(id);

// Milliseconds.
const HISTORY = 1000 * document.body.dataset.history;
const GAP = 3_000;
const ECHO_EVERY = 200;

let samples = [];
// The time whose values are shown, if not now.
let moment = null;

// The connection.

const connection = new Connection("samples", "ping");
connection.onopen = () => show("connected", "Connected");
connection.onmessage = (data) => {
  const fresh = JSON.parse(data);
  if (fresh.length === 0) return;
  // What was before stays, if the server has started anew and does not know it.
  samples = samples.filter(({ time }) => time < fresh[0].time && time > fresh.at(-1).time - HISTORY);
  samples.push(...fresh);
  drawAll();
};
connection.onlost = () => lose("The connection is lost; the page keeps trying.");
connection.onended = (reason) => lose(`The server has ended the connection: ${reason}.`);

function lose(words) {
  find("lost-words").textContent = words;
  show("lost", "Not connected");
}

function show(state, words) {
  find("page").dataset.state = state;
  find("state").textContent = words;
  find("lost").hidden = state !== "lost";
}

find("retry").onclick = () => connection.open();

// Charts.

const number = (digits) => new Intl.NumberFormat("en", { maximumFractionDigits: digits });
const formats = {
  percent: (value) => `${number(value < 10 ? 1 : 0).format(value)} %`,
  bytes: (value) => `${number(1).format(value / 2 ** 20)} MiB`,
  count: (value) => number(0).format(value),
  rate: (value) => number(value < 10 ? 1 : 0).format(value),
};
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

function shape(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// To 1, 2, 4, 6 or 8 with zeros, whose halves are short too.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 4, 6, 8, 10].find((each) => each * power >= value);
}

function drawAll() {
  const shown = moment ?? samples.at(-1)?.time;
  const sample = samples.reduce((best, each) =>
    (Math.abs(each.time - shown) < Math.abs(best.time - shown) ? each : best), samples[0]);
  if (!sample) return;
  for (const figure of document.querySelectorAll("figure")) draw(figure, sample);
  find("moment").textContent = moment === null ? "Now" : clock.format(sample.time);
  find("used").textContent = formats.percent(sample.used);
}

function draw(figure, sample) {
  const svg = figure.querySelector("svg");
  const { clientWidth: width, clientHeight: height } = svg;
  const fields = [...figure.querySelectorAll("dd")];
  const scale = fields[0].dataset.format === "bytes" ? 2 ** 20 : 1;
  const most = Math.max(Number(figure.dataset.least), ...fields.flatMap(({ dataset }) =>
    samples.map((each) => each[dataset.field] / scale)));
  const top = roundUp(most) * scale;
  const end = samples.at(-1).time;
  const x = (time) => width * (1 - (end - time) / HISTORY);
  const y = (value) => 12 + (height - 32) * (1 - value / top);
  const parts = [];

  for (const value of [0, top / 2, top]) {
    parts.push(shape("line", { class: "grid", x1: 0, x2: width, y1: y(value), y2: y(value) }));
    const format = formats[fields[0].dataset.format];
    if (value) parts.push(shape("text", { x: 0, y: y(value) - 4 }, format(value)));
  }
  for (const [seconds, anchor, words] of [[120, "start", "2 min ago"], [60, "middle", "1 min ago"], [0, "end", "now"]]) {
    parts.push(shape("text", { x: x(end - 1000 * seconds), y: height - 3, "text-anchor": anchor }, words));
  }

  for (const [place, { dataset }] of fields.entries()) {
    for (const piece of pieces()) {
      const line = piece.map((each) => `${x(each.time).toFixed(1)} ${y(each[dataset.field]).toFixed(1)}`).join("L");
      const [first, last] = [piece[0], piece.at(-1)].map(({ time }) => x(time).toFixed(1));
      parts.push(shape("path", { class: `area series-${place}`, d: `M${first} ${y(0)}L${line}L${last} ${y(0)}Z` }));
      parts.push(shape("path", { class: `line series-${place}`, d: `M${line}` }));
    }
  }
  if (moment !== null) {
    const at = x(sample.time);
    parts.push(shape("line", { class: "cursor", x1: at, x2: at, y1: 12, y2: y(0) }));
  }
  for (const [place, field] of fields.entries()) {
    const value = sample[field.dataset.field];
    field.textContent = formats[field.dataset.format](value);
    parts.push(shape("circle", { class: `dot series-${place}`, cx: x(sample.time), cy: y(value), r: 3.5 }));
  }
  svg.replaceChildren(...parts);
}

// Samples without an outage between them.
function pieces() {
  const found = [];
  for (const each of samples) {
    if (each.time - (found.at(-1)?.at(-1).time ?? 0) > GAP) found.push([each]);
    else found.at(-1).push(each);
  }
  return found;
}

new ResizeObserver(drawAll).observe(find("page"));

// A moment's values: where the pointer is, or by keys.

function choose(time) {
  moment = time;
  drawAll();
}

for (const svg of document.querySelectorAll("svg")) {
  svg.onpointermove = ({ offsetX }) => {
    const end = samples.at(-1)?.time;
    if (end) choose(end - HISTORY * (1 - offsetX / svg.clientWidth));
  };
  svg.onpointerleave = svg.onblur = () => choose(null);
  svg.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") choose(null);
    if (!step || !samples.length) return;
    event.preventDefault();
    const from = moment === null ? samples.length - 1
      : samples.findLastIndex(({ time }) => time <= Math.max(moment, samples[0].time));
    const to = Math.max(from + step, 0);
    choose(to < samples.length - 1 ? samples[to].time : null);
  };
}

// Load: connections that have something sent back five times a second.

let sockets = [];

setInterval(() => {
  const wanted = connection.isOpen ? Number(find("sockets").value) : 0;
  sockets = sockets.filter(({ readyState }) => readyState <= WebSocket.OPEN);
  for (const socket of sockets.splice(wanted)) socket.close();
  while (sockets.length < wanted) sockets.push(new WebSocket(new URL("echo", location.href.replace(/^http/, "ws"))));
  for (const socket of sockets) if (socket.readyState === WebSocket.OPEN) socket.send("Hello");
}, ECHO_EVERY);

find("sockets").oninput = () => {
  const { value } = find("sockets");
  find("number").textContent = value === "0" ? "no connections"
    : `${value} ${value === "1" ? "connection" : "connections"}, ${value * (1000 / ECHO_EVERY)} messages a second`;
};

connection.open();
