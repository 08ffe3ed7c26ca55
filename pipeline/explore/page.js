"use strict";
// The page: maps, the moment that was picked, what is like it, and two views of an event.

const RAMP = ["#46039f", "#7201a8", "#9c179e", "#bd3786", "#d8576b", "#ed7953", "#fb9f3a", "#fdca26"];
const HEAT = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06",
              "#f7d13d", "#fcffa4"];
const CLASSES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6bbd", "#7f7f7f",
                 "#a5462a", "#5b8c2a"];
const NONE = "#b9bac0";
const SHOWN_CLASSES = 24; // of a legend

const byId = (id) => document.getElementById(id);
const state = { about: null, maps: [], row: -1, hovered: -1, codes: null, picked: null };

function make(tag, text = "", properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text) element.textContent = text;
  return element;
}

async function ask(name, given = {}, kind = "json") {
  const response = await fetch(`${name}?${new URLSearchParams(given)}`);
  if (!response.ok) throw new Error((await response.json()).error);
  return kind === "json" ? response.json() : response.arrayBuffer();
}

// What went wrong is said, and goes away.
function say(text) {
  const message = byId("message");
  message.textContent = text;
  message.hidden = !text;
  clearTimeout(say.timer);
  if (text) say.timer = setTimeout(() => (message.hidden = true), 8000);
}

const guarded = (work) => (...words) => work(...words).catch((error) => say(error.message));

function rgb(hex) {
  const value = parseInt(hex.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

function along(ramp, share) {
  const place = Math.min(1, Math.max(0, share)) * (ramp.length - 1);
  const low = Math.min(ramp.length - 2, Math.floor(place)), part = place - low;
  const [one, other] = [rgb(ramp[low]), rgb(ramp[low + 1])];
  return one.map((value, n) => Math.round(value + (other[n] - value) * part));
}

const packed = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
const picture = (row) => `frame?row=${row}`;
const seconds = (value) => `${value.toFixed(2)} s`;
const named = (about) => (state.about.stills ? about.video : `${about.video}, ${seconds(about.time_s)}`);

async function start() {
  const about = (state.about = await ask("about"));
  byId("title").textContent = `${about.frames.toLocaleString("en")} frames` +
    (about.encoder ? `, encoder ${about.encoder}` : "");
  document.title = `marey explore: ${about.encoder || "embeddings"}`;
  for (const element of document.querySelectorAll(".timed")) element.hidden = about.stills;
  about.columns.forEach((column, n) => byId("colour").append(new Option(column.title, n)));
  about.videos.forEach((video, n) => byId("video").append(new Option(video, n)));
  for (const [number, side] of about.sides.entries()) {
    const box = make("div", "", { className: "map" });
    const title = make("p", about.sides.length > 1 ? `${side.name} ` : "");
    title.append(make("small", side.method));
    box.append(title);
    byId("maps").append(box);
    const points = new Float32Array(await ask("points", { side: number }, "bytes"));
    state.maps.push(new PointMap(box, points, { hover, click: guarded(pick) }));
  }
  byId("colour").addEventListener("change", guarded(colour));
  byId("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(pickTime)();
  });
  byId("image").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) guarded(search)(file);
    event.target.value = "";
  });
  document.addEventListener("keydown", step);
  acceptDrops();
  startViews();
  await colour();
  document.body.dataset.ready = "yes";
}

// ---- colours

async function colour() {
  const number = Number(byId("colour").value || 0), column = state.about.columns[number];
  const content = await ask("column", { number }, "bytes");
  const values = column.names ? new Uint16Array(content) : new Float32Array(content);
  const table = column.names ? column.names.map((name, n) => classColour(column, n)) : null;
  const steps = Array.from({ length: 256 }, (_, n) => packed(along(RAMP, n / 255)));
  const none = packed(rgb(NONE)), range = column.high - column.low || 1;
  const one = table && table.map((hex) => packed(rgb(hex)));
  const colours = new Uint32Array(values.length);
  for (let n = 0; n < values.length; n++)
    colours[n] = one ? one[values[n]]
      : values[n] === values[n] ? steps[(((values[n] - column.low) / range) * 255) | 0] : none;
  state.codes = column.names ? values : null;
  state.picked = null;
  for (const map of state.maps) {
    map.colours = colours;
    map.dim = null;
    map.draw();
  }
  legend(column, table, number);
}

const classColour = (column, n) =>
  column.names[n] === "none" && n === column.names.length - 1 ? NONE : CLASSES[n % CLASSES.length];

function legend(column, table, number) {
  const box = byId("legend");
  box.replaceChildren();
  if (!column.names) {
    const scale = make("canvas", "", { width: 150, height: 1 }), context = scale.getContext("2d");
    for (let n = 0; n < 150; n++) {
      context.fillStyle = `rgb(${along(RAMP, n / 149)})`;
      context.fillRect(n, 0, 1, 1);
    }
    const ends = number === 0 && !state.about.stills ? ["start", "end"] : [short(column.low), short(column.high)];
    box.append(make("span", ends[0]), scale, make("span", ends[1]));
    return;
  }
  const order = [...column.names.keys()].sort((a, b) => column.counts[b] - column.counts[a]);
  const shown = order.slice(0, SHOWN_CLASSES).sort((a, b) => a - b);
  for (const n of shown) {
    const button = make("button", "", { type: "button", title: "show these alone" });
    const dot = make("i");
    dot.style.background = table[n];
    button.append(dot, `${column.names[n]} (${column.counts[n].toLocaleString("en")})`);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => only(n, button));
    box.append(button);
  }
  if (order.length > shown.length)
    box.append(make("span", `and ${order.length - shown.length} more, in the same ${CLASSES.length} colours`));
}

const short = (value) => (Number.isInteger(value) ? String(value) : value.toPrecision(3));

// Let all but one class stand back; the same click again undoes it.
function only(number, button) {
  const undo = state.picked === number;
  state.picked = undo ? null : number;
  for (const other of byId("legend").querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", String(!undo));
  const dim = undo ? null : Uint8Array.from(state.codes, (code) => (code === number ? 0 : 1));
  for (const map of state.maps) {
    map.dim = dim;
    map.draw();
  }
}

// ---- a moment

const rows = new Map(); // what is known of rows, as it was answered

async function known(row) {
  if (!rows.has(row)) rows.set(row, await ask("row", { row }));
  return rows.get(row);
}

function hover(row, event) {
  const tip = byId("tip");
  if (row < 0) {
    state.hovered = -1;
    tip.hidden = true;
    return;
  }
  tip.style.left = `${Math.min(event.clientX + 16, window.innerWidth - 210)}px`;
  tip.style.top = `${Math.min(event.clientY + 16, window.innerHeight - 210)}px`;
  if (row === state.hovered) return;
  state.hovered = row;
  known(row).then((about) => {
    if (state.hovered !== row) return;
    tip.replaceChildren();
    if (state.about.pixels) tip.append(make("img", "", { src: picture(row), alt: "" }));
    tip.append(make("span", named(about) + (about.label ? `, label ${about.label}` : "")));
    tip.hidden = false;
  }, (error) => say(error.message));
}

async function pick(row) {
  state.row = row;
  state.hovered = -1;
  byId("tip").hidden = true;
  const about = await known(row);
  mark();
  byId("shown").hidden = false;
  document.querySelector("#moment > .hint").hidden = true;
  byId("name").textContent = named(about);
  byId("detail").textContent = [
    state.about.stills ? "" : `event ${about.event}, view ${about.view}, frame ${about.frame}`,
    about.label ? `label ${about.label}` : "",
  ].filter(Boolean).join(", ");
  if (!state.about.stills) {
    byId("video").value = state.about.videos.indexOf(about.video);
    byId("time").value = about.time_s.toFixed(2);
  }
  play(row);
  const found = await ask("near", { row });
  if (state.row === row) list(found, state.about.stills ? "Nearest images" : "Nearest moments in other videos");
  showEvent(about);
}

// The clip around a moment, over and over; the frame alone where there is none.
async function play(row) {
  const player = byId("player");
  if (!state.about.pixels) return player.replaceChildren();
  const still = make("img", "", { src: picture(row), alt: "the frame that was picked" });
  player.replaceChildren(still);
  if (state.about.stills) return;
  const response = await fetch(`clip?row=${row}`);
  if (!response.ok || state.row !== row) return;
  const video = make("video", "", { muted: true, loop: true, controls: true, playsInline: true });
  video.setAttribute("aria-label", "the seconds around the frame that was picked");
  video.src = URL.createObjectURL(await response.blob());
  video.currentTime = Number(response.headers.get("X-Moment"));
  if (state.row !== row) return;
  video.addEventListener("loadeddata", () => {
    if (state.row !== row) return;
    for (const old of player.querySelectorAll("video")) URL.revokeObjectURL(old.src);
    player.replaceChildren(video);
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) video.play().catch(() => {});
  });
  video.load();
}

function list(sides, title) {
  const box = byId("found");
  box.replaceChildren();
  for (const [number, found] of sides.entries()) {
    const side = state.about.sides[number].name;
    box.append(make("h3", sides.length > 1 ? `${title}, ${side}` : title));
    const grid = make("div", "", { className: "found" });
    for (const one of found) {
      rows.set(one.row, one);
      const button = make("button", "", { type: "button" });
      if (state.about.pixels)
        button.append(make("img", "", { src: picture(one.row), alt: "", loading: "lazy" }));
      const text = make("span");
      text.append(make("b", one.similarity.toFixed(3)), ` ${named(one)}`);
      button.append(text);
      button.addEventListener("click", () => guarded(pick)(one.row));
      grid.append(button);
    }
    if (!found.length) grid.append(make("span", "there is no other video"));
    box.append(grid);
    state.maps[number].found = found.map((one) => one.row);
  }
  mark();
}

function mark() {
  for (const map of state.maps) {
    map.marks = (map.found || []).map((row) => ({ row, size: 5 }));
    if (state.row >= 0) map.marks.push({ row: state.row, size: 9 });
    map.draw();
  }
}

// The embedded frame of a video that is nearest to the time that was typed.
async function pickTime() {
  const number = Number(byId("video").value), wanted = Number(byId("time").value);
  const { starts, frames } = state.about;
  let low = starts[number], high = (starts[number + 1] ?? frames) - 1;
  const last = high;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((await known(middle)).time_s < wanted) low = middle + 1;
    else high = middle;
  }
  const before = Math.max(starts[number], low - 1);
  const nearer = Math.abs((await known(before)).time_s - wanted) < Math.abs((await known(low)).time_s - wanted);
  await pick(Math.min(last, nearer ? before : low));
}

function step(event) {
  if (state.row < 0 || state.about.stills || /^(INPUT|SELECT|TEXTAREA|VIDEO)$/.test(event.target.tagName)) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const row = state.row + (by || 0);
  if (!by || row < 0 || row >= state.about.frames) return;
  event.preventDefault();
  guarded(pick)(row);
}

// ---- an image of one's own

async function search(file) {
  say("searching");
  const response = await fetch("like", { method: "POST", body: file });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  say("");
  state.row = -1;
  byId("shown").hidden = false;
  document.querySelector("#moment > .hint").hidden = true;
  byId("player").replaceChildren(make("img", "", { src: URL.createObjectURL(file), alt: "the image that was dropped" }));
  byId("name").textContent = file.name;
  byId("detail").textContent = "";
  list(answer, state.about.stills ? "Nearest images" : "Nearest moments, one a video");
}

function acceptDrops() {
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (file) guarded(search)(file);
  });
}

// ---- two views of an event

const views = { asked: 0, now: null, at: 0, across: -1 };

function startViews() {
  const paired = state.about.paired;
  byId("views").hidden = !paired.length;
  if (!paired.length) return;
  for (const one of paired) byId("event").append(new Option(one.event));
  byId("event").addEventListener("change", () => chooseViews());
  for (const id of ["first", "second"]) byId(id).addEventListener("change", guarded(compare));
  byId("cursor").addEventListener("input", (event) => moveTo(Number(event.target.value)));
  chooseViews();
}

function chooseViews(view) {
  const { views: all } = state.about.paired[byId("event").selectedIndex];
  for (const id of ["first", "second"]) byId(id).replaceChildren(...all.map((name) => new Option(name)));
  const first = Math.max(0, all.indexOf(view));
  byId("first").selectedIndex = first;
  byId("second").selectedIndex = first ? 0 : 1;
  return guarded(compare)();
}

// Follow the moment that was picked.
async function showEvent(about) {
  const number = state.about.paired.findIndex((one) => one.event === about.event);
  if (number < 0) return;
  if (byId("event").selectedIndex !== number || byId("first").value !== about.view) {
    byId("event").selectedIndex = number;
    await chooseViews(about.view);
  }
  if (views.now && views.now.event === about.event) moveTo(closest(views.now.times[0], about.time_s));
}

async function compare() {
  const given = { event: byId("event").value, first: byId("first").value, second: byId("second").value };
  const number = ++views.asked;
  const answer = await ask("between", given);
  if (number !== views.asked) return;
  views.now = { ...answer, ...given };
  const all = answer.cosines.flat(2).sort((a, b) => a - b);
  views.low = all[Math.floor(all.length * 0.05)];
  views.high = all[all.length - 1];
  byId("matrices").replaceChildren();
  views.canvases = answer.cosines.map((cosines, side) => {
    const figure = make("figure"), canvas = make("canvas");
    const name = state.about.sides.length > 1 ? `${state.about.sides[side].name}: ` : "";
    figure.append(make("figcaption", `${name}view ${given.first} down, view ${given.second} across`), canvas);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `similarity of every moment of view ${given.first} with every moment of view ${given.second}`);
    canvas.addEventListener("pointermove", (event) => pointInto(canvas, event));
    canvas.addEventListener("pointerdown", (event) => pointInto(canvas, event));
    byId("matrices").append(figure);
    return canvas;
  });
  byId("cursor").max = answer.rows[0].length - 1;
  moveTo(Math.min(views.at, answer.rows[0].length - 1));
}

const EDGE = { left: 46, top: 8, right: 62, bottom: 34, side: 330 };

function drawMatrix(canvas, cosines) {
  const { rows: [down, across], times } = views.now, dense = Math.min(window.devicePixelRatio || 1, 2);
  const side = EDGE.side, wide = EDGE.left + side + EDGE.right, high = EDGE.top + side + EDGE.bottom;
  canvas.width = wide * dense;
  canvas.height = high * dense;
  canvas.style.width = `${wide}px`;
  const context = canvas.getContext("2d"), style = getComputedStyle(document.body);
  context.scale(dense, dense);
  context.imageSmoothingEnabled = false;
  const small = new OffscreenCanvas(across.length, down.length), image = new ImageData(across.length, down.length);
  const range = views.high - views.low || 1;
  cosines.flat().forEach((value, n) => image.data.set([...along(HEAT, (value - views.low) / range), 255], 4 * n));
  small.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(small, EDGE.left, EDGE.top, side, side);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = style.getPropertyValue("--soft");
  for (const [share, text] of ticks(times[1])) {
    context.textAlign = "center";
    context.fillText(text, EDGE.left + share * side, EDGE.top + side + 15);
  }
  context.fillText(`view ${views.now.second}, s`, EDGE.left + side / 2, EDGE.top + side + 30);
  context.textAlign = "right";
  for (const [share, text] of ticks(times[0])) context.fillText(text, EDGE.left - 6, EDGE.top + share * side + 4);
  for (let n = 0; n < side; n++) {
    context.fillStyle = `rgb(${along(HEAT, 1 - n / side)})`;
    context.fillRect(EDGE.left + side + 12, EDGE.top + n, 10, 1.5);
  }
  context.fillStyle = style.getPropertyValue("--soft");
  context.textAlign = "left";
  context.fillText(views.high.toFixed(2), EDGE.left + side + 26, EDGE.top + 9);
  context.fillText(views.low.toFixed(2), EDGE.left + side + 26, EDGE.top + side);
  const y = EDGE.top + ((views.at + 0.5) / down.length) * side;
  const x = EDGE.left + ((views.across + 0.5) / across.length) * side;
  context.strokeStyle = "#35d0ff";
  context.lineWidth = 1.5;
  context.strokeRect(EDGE.left, y, side, 0);
  if (views.across >= 0) context.strokeRect(x, EDGE.top, 0, side);
}

// About five round times of a view, each with its place as a share.
function ticks(times) {
  const length = times[times.length - 1] - times[0] || 1, rough = length / 5;
  const scale = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * scale).find((n) => n >= rough * 0.8);
  const found = [];
  for (let t = Math.ceil(times[0] / step - 1e-6) * step; t <= times[times.length - 1] + 1e-6; t += step)
    found.push([(closest(times, t) + 0.5) / times.length, String(Number(t.toFixed(3)))]);
  return found;
}

const closest = (times, wanted) =>
  times.reduce((best, time, n) => (Math.abs(time - wanted) < Math.abs(times[best] - wanted) ? n : best), 0);

function pointInto(canvas, event) {
  const edge = canvas.getBoundingClientRect(), scale = edge.width / (EDGE.left + EDGE.side + EDGE.right);
  const [down, across] = views.now.rows;
  const y = ((event.clientY - edge.top) / scale - EDGE.top) / EDGE.side;
  const x = ((event.clientX - edge.left) / scale - EDGE.left) / EDGE.side;
  if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
  moveTo(Math.floor(y * down.length), Math.floor(x * across.length));
}

// Put the cursor at a moment of the first view; pointed: the moment of the second that is pointed at.
function moveTo(at, pointed = -1) {
  const { rows: [down, across], times, cosines } = views.now, time = times[0][at];
  views.at = at;
  views.across = pointed >= 0 ? pointed : closest(times[1], time);
  byId("cursor").value = at;
  byId("now").textContent = seconds(time);
  views.canvases.forEach((canvas, side) => drawMatrix(canvas, cosines[side]));
  const same = closest(times[1], time), grid = make("div", "", { className: "found" });
  grid.append(framed(down[at], "", `view ${views.now.first}, ${seconds(time)}`));
  grid.append(framed(across[same], "", `same moment, view ${views.now.second}, ${seconds(times[1][same])}`));
  cosines.forEach((matrix, side) => {
    const best = matrix[at].reduce((best, value, n) => (value > matrix[at][best] ? n : best), 0);
    const off = times[1][best] - time, name = state.about.sides.length > 1 ? `, ${state.about.sides[side].name}` : "";
    grid.append(framed(across[best], matrix[at][best].toFixed(3),
                       ` most alike${name}: ${off >= 0 ? "+" : ""}${off.toFixed(2)} s`));
  });
  if (pointed >= 0)
    grid.append(framed(across[pointed], cosines.map((matrix) => matrix[at][pointed].toFixed(3)).join(" | "),
                       ` pointed at: ${seconds(times[1][pointed])}`));
  byId("pair").replaceChildren(grid);
}

function framed(row, bold, text) {
  const figure = make("figure"), caption = make("figcaption");
  if (state.about.pixels) figure.append(make("img", "", { src: picture(row), alt: text }));
  caption.append(make("b", bold), text);
  figure.append(caption);
  return figure;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const map of state.maps) map.draw();
  if (views.now) moveTo(views.at);
});
guarded(start)();
