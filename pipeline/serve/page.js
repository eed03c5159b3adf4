"use strict";

// Of Okabe and Ito, as in the pictures of `predict`; with the colour of text on each.
const COLOURS = [
  ["#e69f00", "#000"], ["#56b4e9", "#000"], ["#009e73", "#000"], ["#f0e442", "#000"],
  ["#0072b2", "#fff"], ["#d55e00", "#000"], ["#cc79a7", "#000"],
];

const at = (id) => document.getElementById(id);
const state = { model: null, answer: null, running: null };

function tell(text, isWrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("wrong", isWrong);
}

function thresholdOf(detection) {
  if (at("by-slider").checked) return Number(at("slider").value);
  return state.answer.thresholds[detection.class_name];
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function paint(made, label) {
  const [own, on] = COLOURS[label % COLOURS.length];
  made.style.setProperty("--own", own);
  made.style.setProperty("--on-own", on);
  return made;
}

function drawBox(detection) {
  const { width, height } = state.answer;
  const [x1, y1, x2, y2] = detection.box;
  const box = paint(element("div", undefined, "box"), detection.label);
  box.style.left = `${100 * x1 / width}%`;
  box.style.top = `${100 * y1 / height}%`;
  box.style.width = `${100 * (x2 - x1) / width}%`;
  box.style.height = `${100 * (y2 - y1) / height}%`;
  box.classList.toggle("below", y1 / height < 0.06);
  box.classList.toggle("right", x1 / width > 0.75);
  box.append(element("span", `${detection.class_name} ${detection.score.toFixed(2)}`));
  return box;
}

function drawRow(detection, box) {
  const row = element("tr");
  row.tabIndex = 0;
  const name = element("th");
  name.scope = "row";
  name.append(paint(element("span", undefined, "swatch"), detection.label), detection.class_name);
  const corners = detection.box.map((side) => Math.round(side)).join(", ");
  row.append(name, element("td", detection.score.toFixed(3)), element("td", corners));
  for (const event of ["mouseenter", "focus"]) row.addEventListener(event, () => box.classList.add("marked"));
  for (const event of ["mouseleave", "blur"]) row.addEventListener(event, () => box.classList.remove("marked"));
  return row;
}

function show() {
  at("value").textContent = Number(at("slider").value).toFixed(2);
  if (!state.answer) return;
  const all = state.answer.detections;
  const shown = all.filter((detection) => detection.score > thresholdOf(detection));
  const boxes = shown.map(drawBox);
  at("boxes").replaceChildren(...boxes);
  at("rows").replaceChildren(...shown.map((detection, place) => drawRow(detection, boxes[place])));
  at("table").hidden = shown.length === 0;
  at("count").textContent = `${shown.length} of ${all.length} candidates shown`;
}

function clear() {
  state.answer = null;
  at("boxes").replaceChildren();
  at("rows").replaceChildren();
  at("table").hidden = true;
  at("count").textContent = "";
}

async function ask(file, signal) {
  // Every candidate above the model's floor: the slider filters them here.
  const response = await fetch("detect?threshold=0", { method: "POST", body: file, signal });
  const isJson = (response.headers.get("content-type") || "").startsWith("application/json");
  const content = isJson ? await response.json() : { error: await response.text() };
  if (response.ok && isJson) return content;
  throw new Error(content.error || `the service answered with status ${response.status}`);
}

async function detect(file) {
  if (state.running) state.running.abort();
  const running = state.running = new AbortController();
  clear();
  const picture = at("picture");
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
  picture.alt = file.name || "pasted picture";
  at("figure").hidden = false;
  at("figure").classList.add("busy");
  at("drop").classList.add("small");
  tell(`detecting on ${picture.alt} ...`);
  const start = performance.now();
  try {
    if (state.model && file.size > state.model.max_upload_bytes) {
      throw new Error(`the picture is larger than ${state.model.max_upload_bytes / 1e6} MB, the limit of this service`);
    }
    const answer = await ask(file, running.signal);
    answer.thresholds = state.model ? state.model.thresholds : answer.thresholds;
    state.answer = answer;
    at("figure").style.setProperty("--natural", `${answer.width}px`);
    at("figure").style.setProperty("--ratio", answer.width / answer.height);
    picture.style.aspectRatio = answer.width / answer.height;
    tell(`${picture.alt}: ${answer.width} x ${answer.height} px, ${Math.round(performance.now() - start)} ms`);
    show();
  } catch (error) {
    if (error.name === "AbortError") return;
    at("figure").hidden = true;
    tell(`${picture.alt}: ${error.message}`, true);
  }
  at("figure").classList.remove("busy");
}

async function start() {
  show();
  at("file").addEventListener("change", () => {
    if (at("file").files.length) detect(at("file").files[0]);
    at("file").value = "";
  });
  at("slider").addEventListener("input", () => { at("by-slider").checked = true; show(); });
  for (const id of ["by-class", "by-slider"]) at(id).addEventListener("change", show);
  document.addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
  document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    if (event.dataTransfer.files.length) detect(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) detect(event.clipboardData.files[0]);
  });
  const response = await fetch("model");
  const model = await response.json();
  state.model = model;
  at("classes").textContent = `Classes: ${model.class_names.join(", ")}`;
  at("limits").textContent = `up to ${model.max_upload_bytes / 1e6} MB and ${model.max_pixels / 1e6} megapixels`;
  at("slider").min = model.floor;
  at("slider").value = Object.values(model.thresholds)[0];
  show();
}

start().catch(() => tell("the service does not answer", true));
