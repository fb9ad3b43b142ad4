"use strict";
const find = (css) => document.querySelector(css);
const bytes = Uint8Array.from(atob(find("#content").textContent), (c) => c.charCodeAt(0));
const trials = JSON.parse(new TextDecoder().decode(bytes));
const answers = [];
let heard, began, playing;

function show(section) {
  for (const id of ["intro", "trial", "end"]) find("#" + id).hidden = id !== section;
}

function silence() {
  if (playing) playing.pause();
  playing = null;
  for (const one of document.querySelectorAll("[data-play]")) one.setAttribute("aria-pressed", "false");
}

function next() {
  silence();
  heard = {A: 0, B: 0, X: 0};
  began = performance.now();
  find("#progress").value = answers.length;
  if (answers.length === trials.length) return end();
  find("#number").textContent = `Question ${answers.length + 1} of ${trials.length}`;
  find("#number").focus();
  ready();
}

function ready() {
  const all = heard.A && heard.B && heard.X;
  find("#hint").hidden = Boolean(all);
  for (const one of document.querySelectorAll("[data-answer]")) one.disabled = !all;
}

function play(which) {
  silence();
  const trial = trials[answers.length];
  const sound = which === "X" ? trial.x : which;
  const button = find(`[data-play=${which}]`);
  playing = new Audio(trial.sound[sound === "A" ? 0 : 1]);
  playing.onended = silence;
  button.setAttribute("aria-pressed", "true");
  playing.play().then(() => { heard[which] += 1; ready(); }, silence);
}

function answer(said) {
  const trial = trials[answers.length];
  answers.push({
    said, right: said === trial.x, plays: heard.A + heard.B + heard.X,
    seconds: ((performance.now() - began) / 1000).toFixed(1),
  });
  next();
}

function end() {
  show("end");
  const right = answers.filter((one) => one.right).length;
  find("#score").textContent = `Right in ${right} of ${answers.length}`;
  find("#score").focus();
  for (const method of [...new Set(trials.map((one) => one.method))].sort()) {
    const own = answers.filter((_, at) => trials[at].method === method);
    const row = find("#methods").insertRow();
    const cells = [method, own.filter((one) => one.right).length, own.length];
    for (const text of cells) row.insertCell().textContent = text;
  }
}

function field(value) {
  let text = String(value);
  if (/^[=+\-@\t\r]/.test(text)) text = "'" + text; // no formula in a spreadsheet
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save() {
  const heads = ["listener", "question", "method", "prompt", "id", "seed", "clip", "generated", "x",
    "answer", "right", "plays", "seconds"];
  const rows = trials.map((one, at) => [find("#listener").value, at + 1, one.method, one.prompt,
    one.id, one.seed, one.clip, one.generated, one.x, answers[at].said, answers[at].right ? 1 : 0,
    answers[at].plays, answers[at].seconds]);
  const text = [heads, ...rows].map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = "listening-answers.csv";
  link.click();
}

find("#start").onclick = () => { show("trial"); next(); };
find("#save").onclick = save;
for (const one of document.querySelectorAll("[data-play]")) one.onclick = () => play(one.dataset.play);
for (const one of document.querySelectorAll("[data-answer]")) {
  one.onclick = () => answer(one.dataset.answer);
}
addEventListener("keydown", (event) => {
  if (find("#trial").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const play_ = {1: "A", 2: "B", 3: "X"}[event.key];
  const said = {a: "A", b: "B"}[event.key.toLowerCase()];
  if (play_) play(play_);
  else if (said && !find(`[data-answer=${said}]`).disabled) answer(said);
});
addEventListener("beforeunload", (event) => {
  if (answers.length && find("#end").hidden) event.preventDefault();
});
