// The page's side of the board. How messages are packed is in whiteboard.py.

import { Connection } from "./connection.js";

const [HELLO, STROKE, CLEAR, FULL] = [0, 1, 2, 3];
const HEAD_BYTES = 7;
const LAST = 65_535;
const POINTS_MOST = Number(document.body.dataset.pointsMost);

const find = (id) => document.getElementById(id);
const board = find("board");
const tools = find("tools");
// What the server has, and above it what is on its way there.
const picture = find("picture").getContext("2d");
const fresh = find("fresh").getContext("2d");

let strokes = [];
let unsure = [];
let myNumber = 0;
let isNew = false;

// The connection.

const connection = new Connection("board", Uint8Array.of(HELLO));
connection.onopen = () => { isNew = true; };
connection.onmessage = (data) => take(new DataView(data));
connection.onlost = () => lose("The connection is lost; what you draw is sent when it is back.");
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

function take(view) {
  for (let at = 0; at < view.byteLength;) {
    const type = view.getUint8(at);
    if (type === HELLO) {
      myNumber = view.getUint16(at + 1);
      const people = view.getUint16(at + 3);
      show("connected", people === 1 ? "Connected, nobody else is here" : `Connected, ${people} are here`);
      at += 5;
    } else if (type === STROKE) {
      const stroke = unpack(view, at);
      strokes.push(stroke);
      draw(picture, stroke);
      if (stroke.author === myNumber) settle();
      at += HEAD_BYTES + 2 * stroke.points.length;
    } else {
      if (type === CLEAR) {
        strokes = [];
        wipe(picture);
      } else if (type === FULL) {
        settle();
      }
      find("full").hidden = type !== FULL;
      at += 1;
      // The first is the picture, a connection's second message.
      if (isNew) unsure.forEach(send);
      isNew = false;
    }
  }
}

function settle() {
  unsure.shift();
  wipe(fresh);
  for (const stroke of unsure) draw(fresh, stroke);
}

// Strokes: points are x, y, x, y…, from 0 to 65535 over the board.

function pack({ colour, width, points }) {
  const view = new DataView(new ArrayBuffer(HEAD_BYTES + 2 * points.length));
  view.setUint8(0, STROKE);
  view.setUint8(3, colour);
  view.setUint8(4, width);
  view.setUint16(5, points.length / 2);
  points.forEach((each, i) => view.setUint16(HEAD_BYTES + 2 * i, each));
  return view;
}

function unpack(view, at) {
  const points = new Uint16Array(2 * view.getUint16(at + 5));
  for (let i = 0; i < points.length; i += 1) points[i] = view.getUint16(at + HEAD_BYTES + 2 * i);
  return { author: view.getUint16(at + 1), colour: view.getUint8(at + 3), width: view.getUint8(at + 4), points };
}

function send(stroke) {
  connection.send(pack(stroke));
}

// Colour and width of what has the same are set once.
function draw(context, { colour, width, points }) {
  const { width: across, height: down } = context.canvas;
  context.strokeStyle = colours[colour % colours.length];
  context.lineWidth = (width / 1000) * across;
  context.beginPath();
  context.moveTo((points[0] / LAST) * across, (points[1] / LAST) * down);
  for (let i = 0; i < points.length; i += 2) {
    context.lineTo((points[i] / LAST) * across, (points[i + 1] / LAST) * down);
  }
  context.stroke();
}

function wipe(context) {
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
}

let colours = [];

function drawAll() {
  const swatches = [...tools.querySelectorAll(".colours label")];
  const value = (label) => Number(label.querySelector("input").value);
  swatches.sort((one, other) => value(one) - value(other));
  // They are others in a dark window; the first is the eraser's, the board's own.
  colours = swatches.map((label) => getComputedStyle(label.querySelector("span")).backgroundColor);
  for (const [context, those] of [[picture, strokes], [fresh, unsure]]) {
    context.canvas.width = Math.round(board.clientWidth * devicePixelRatio);
    context.canvas.height = Math.round(board.clientHeight * devicePixelRatio);
    context.lineCap = context.lineJoin = "round";
    for (const stroke of those) draw(context, stroke);
  }
}

new ResizeObserver(drawAll).observe(board);
matchMedia("(prefers-color-scheme: dark)").onchange = drawAll;

// Drawing: a line becomes strokes of what was added to it since the last frame.

const lines = new Map();

function startLine(key, point) {
  const { colour, width } = Object.fromEntries(new FormData(tools));
  lines.set(key, { colour: Number(colour), width: Number(width), points: point, isNew: true });
  requestAnimationFrame(sendLines);
}

function extendLine(key, point) {
  const line = lines.get(key);
  if (!line) return;
  line.points.push(...point);
  line.isNew = true;
  if (line.points.length >= 2 * POINTS_MOST) sendLines();
  else requestAnimationFrame(sendLines);
}

function endLine(key) {
  sendLines();
  lines.delete(key);
}

function sendLines() {
  for (const line of lines.values()) {
    if (!line.isNew) continue;
    const stroke = { colour: line.colour, width: line.width, points: Uint16Array.from(line.points) };
    // The next goes on where this one ends.
    line.points = line.points.slice(-2);
    line.isNew = false;
    unsure.push(stroke);
    draw(fresh, stroke);
    if (!isNew) send(stroke);
  }
}

function toPoint(x, y) {
  return [x, y].map((each) => Math.round(Math.min(Math.max(each, 0), 1) * LAST));
}

function pointOf(event) {
  const { left, top, width, height } = board.getBoundingClientRect();
  return toPoint((event.clientX - left) / width, (event.clientY - top) / height);
}

board.onpointerdown = (event) => {
  if (event.button !== 0) return;
  board.setPointerCapture(event.pointerId);
  startLine(event.pointerId, pointOf(event));
};
board.onpointermove = (event) => {
  // All that the pointer did since the last frame, where the browser tells.
  const moves = event.getCoalescedEvents?.() ?? [];
  for (const each of moves.length ? moves : [event]) extendLine(event.pointerId, pointOf(each));
};
board.onpointerup = board.onpointercancel = (event) => endLine(event.pointerId);

// Without a pointer.

const pen = { x: .5, y: .5 };

function showPen() {
  find("pen").style.translate = `${pen.x * board.clientWidth}px ${pen.y * board.clientHeight}px`;
  find("pen").classList.toggle("down", lines.has("pen"));
}

board.onkeydown = (event) => {
  const step = event.shiftKey ? .05 : .01;
  const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (move) {
    pen.x = Math.min(Math.max(pen.x + move[0], 0), 1);
    pen.y = Math.min(Math.max(pen.y + move[1], 0), 1);
    extendLine("pen", toPoint(pen.x, pen.y));
  } else if (event.key === " ") {
    if (lines.has("pen")) endLine("pen");
    else startLine("pen", toPoint(pen.x, pen.y));
  } else {
    return;
  }
  event.preventDefault();
  showPen();
};
board.onfocus = showPen;
board.onblur = () => {
  endLine("pen");
  showPen();
};

// Clearing and saving.

find("clear").onclick = () => {
  find("ask").returnValue = "";
  find("ask").showModal();
};
find("ask").onclose = () => {
  if (find("ask").returnValue === "clear") connection.send(Uint8Array.of(CLEAR));
};

find("save").onclick = () => {
  const copy = document.createElement("canvas");
  copy.width = picture.canvas.width;
  copy.height = picture.canvas.height;
  const context = copy.getContext("2d");
  context.fillStyle = colours[0];
  context.fillRect(0, 0, copy.width, copy.height);
  context.drawImage(picture.canvas, 0, 0);
  copy.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "whiteboard.png";
    link.click();
    URL.revokeObjectURL(link.href);
  });
};

connection.open();
