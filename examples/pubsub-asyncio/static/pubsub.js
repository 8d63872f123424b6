// The page's side of the channels. What the server calls things is in pubsub.py.

import { Connection } from "./connection.js";

const find = (id) => document.getElementById(id);
const CHANNELS_MOST = Number(document.body.dataset.channelsMost);
const ITEMS_MOST = 500;

// The channels of this window, which a reload keeps.
const channels = new Set(JSON.parse(sessionStorage.getItem("pubsub.channels")) ?? ["news"]);

// The connection.

const connection = new Connection("pubsub", JSON.stringify({ type: "ping" }));

connection.onopen = () => {
  for (const channel of channels) ask({ type: "subscribe", channel });
};
connection.onmessage = (data) => {
  const event = JSON.parse(data);
  events[event.type]?.(event);
};
connection.onlost = () => lose("Connection lost.");
connection.onended = (reason) => lose(`The server has ended the connection: ${reason}.`);

function ask(request) {
  return connection.send(JSON.stringify(request));
}

function lose(words) {
  if (publishing) showOutcome("The connection was lost: it is not known whether this was published.", true);
  publishing = null;
  find("lost-words").textContent = `${words} What is said meanwhile does not get here.`;
  show("lost", "Not connected");
}

function show(state, words) {
  find("page").dataset.state = state;
  find("state").textContent = words;
  find("lost").hidden = state !== "lost";
  showPublishing();
}

find("retry").onclick = () => {
  connection.open();
  find("text").focus();
};

// What the server says.

const events = {
  welcome({ worker }) {
    show("connected", `Connected to worker process ${worker}`);
  },

  message({ channel, text, time }) {
    const words = element("div", "words", text);
    words.dir = "auto";
    const stamp = element("time", "", clock.format(time));
    stamp.dateTime = new Date(time).toISOString();
    append(element("li", "message", label(channel), words, stamp));
  },

  published({ channel }) {
    if (find("text").value === publishing) find("text").value = "";
    publishing = null;
    showOutcome(channels.has(channel)
      ? `Published on ${channel}.`
      : `Published on ${channel}, to which this window does not listen.`);
    showPublishing();
  },

  error({ text }) {
    publishing = null;
    showOutcome(text, true);
    showPublishing();
  },
};

// Messages.

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

function hue(channel) {
  let sum = 0;
  for (const letter of channel) sum = (sum * 31 + letter.codePointAt(0)) % 9973;
  return (sum * 137) % 360;
}

function label(channel, tag = "span") {
  const made = element(tag, "channel", element("bdi", "", channel));
  made.style.setProperty("--hue", hue(channel));
  return made;
}

function append(item) {
  const log = find("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  find("messages").append(item);
  if (find("messages").children.length > ITEMS_MOST) find("messages").firstElementChild.remove();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

// Listening.

function showChannels() {
  sessionStorage.setItem("pubsub.channels", JSON.stringify([...channels]));
  find("channels").replaceChildren(...[...channels].map((channel) => {
    const leave = element("button", "", "×");
    leave.type = "button";
    leave.setAttribute("aria-label", `Do not listen to ${channel}`);
    leave.onclick = () => {
      channels.delete(channel);
      ask({ type: "unsubscribe", channel });
      showChannels();
      find("channel").focus();
    };
    const item = label(channel, "li");
    item.append(leave);
    return item;
  }));
  find("known").replaceChildren(...[...channels].map((channel) => new Option(channel)));
}

find("subscribe").onsubmit = (event) => {
  event.preventDefault();
  const channel = find("channel").value.trim();
  if (!channel) return;
  if (channels.size === CHANNELS_MOST) {
    showOutcome(`A window listens to ${CHANNELS_MOST} channels at most.`, true);
    return;
  }
  find("channel").value = "";
  channels.add(channel);
  ask({ type: "subscribe", channel });
  showChannels();
  if (!find("to").value) find("to").value = channel;
};

// Publishing: the text stays where it is until the server has it.

let publishing = null;

find("publish").onsubmit = (event) => {
  event.preventDefault();
  const channel = find("to").value.trim();
  const text = find("text").value;
  if (!channel || !text || publishing !== null) return;
  if (!ask({ type: "publish", channel, text })) {
    showOutcome("Not published: there is no connection.", true);
    return;
  }
  publishing = text;
  showOutcome("");
  showPublishing();
};

function showPublishing() {
  find("send").disabled = !connection.isOpen || publishing !== null;
}

function showOutcome(words, isBad = false) {
  find("outcome").textContent = words;
  find("outcome").classList.toggle("bad", isBad);
}

showChannels();
find("to").value = [...channels][0] ?? "";
find("text").focus();
connection.open();
