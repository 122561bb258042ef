"use strict";
// Sends frames of the webcam, or a picture, to the program, and draws what it finds.

const LARGEST_SIDE = 640; // of the frames that are sent
const RETRY_MS = 2000;
const at = (id) => document.getElementById(id);
const [camera, file, drop, video, view, stage] = [
  "camera", "file", "drop", "video", "view", "stage",
].map(at);
let stream = null;
let shown = 0; // counts what was started: an answer to something earlier is dropped

function say(text, wrong = false) {
  at("message").textContent = text;
  at("message").classList.toggle("wrong", wrong);
}

// Sends a picture; returns the answer, or null after saying what was wrong.
async function ask(blob) {
  let response;
  try {
    response = await fetch("faces", { method: "POST", body: blob });
  } catch {
    say("The program does not answer. Start it again, and open its new address.", true);
    return null;
  }
  const answer = await response.json().catch(() => ({ error: "no answer" }));
  if (!response.ok) {
    say(`This picture cannot be used: ${answer.error}.`, true);
    return null;
  }
  return answer;
}

function draw(source, width, height, faces) {
  stage.hidden = false;
  view.width = width;
  view.height = height;
  const context = view.getContext("2d");
  context.drawImage(source, 0, 0, width, height);
  const unit = Math.max(12, Math.round(Math.max(width, height) / 40));
  context.lineWidth = Math.max(2, unit / 6);
  context.font = `600 ${unit}px system-ui, sans-serif`;
  for (const face of faces) {
    const [left, top, wide, high] = face.box ?? [0, 0, width, height];
    context.strokeStyle = "#ffd34d";
    context.strokeRect(left, top, wide, high);
    const text = `${face.label} ${percent(face.confidence)}`;
    const y = top >= 1.4 * unit ? top - 1.4 * unit : top;
    context.fillStyle = "#111111";
    context.fillRect(left, y, context.measureText(text).width + unit, 1.4 * unit);
    context.fillStyle = "#ffd34d";
    context.fillText(text, left + unit / 2, y + unit);
  }
}

const percent = (share) => `${Math.round(100 * share)} %`;

function list(faces) {
  at("faces").replaceChildren(
    ...faces.map((face) => {
      const item = document.createElement("li");
      const head = document.createElement("h2");
      head.textContent = face.label;
      const rows = Object.entries(face.probabilities).map(([label, share]) => {
        const row = document.createElement("div");
        row.className = "row";
        const name = document.createElement("span");
        name.textContent = label;
        const meter = document.createElement("meter");
        meter.value = share;
        meter.setAttribute("aria-label", label);
        const figure = document.createElement("span");
        figure.textContent = percent(share);
        row.append(name, meter, figure);
        return row;
      });
      item.append(head, ...rows);
      return item;
    }),
  );
}

const found = (faces) =>
  faces.length === 0
    ? "No face found."
    : faces.length === 1
      ? "1 face."
      : `${faces.length} faces.`;

async function picture(blob) {
  stop();
  const mine = ++shown;
  say("Looking for faces …");
  const answer = await ask(blob);
  if (!answer || mine !== shown) return;
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  const [width, height] = answer.size;
  draw(bitmap, width, height, answer.faces);
  at("speed").textContent = `${answer.ms.toFixed(0)} ms`;
  list(answer.faces);
  say(found(answer.faces));
}

async function start() {
  stop();
  const mine = ++shown;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    say(
      error.name === "NotAllowedError"
        ? "The browser was not allowed to use the camera. Allow it, or drop a picture."
        : "There is no camera that can be used. Drop a picture instead.",
      true,
    );
    return;
  }
  if (mine !== shown) return;
  video.srcObject = stream;
  await video.play();
  camera.textContent = "Stop the camera";
  let before = performance.now();
  let rate = 0;
  const small = document.createElement("canvas");
  while (stream && mine === shown) {
    const ratio = Math.min(1, LARGEST_SIDE / Math.max(video.videoWidth, video.videoHeight));
    small.width = Math.round(ratio * video.videoWidth);
    small.height = Math.round(ratio * video.videoHeight);
    small.getContext("2d").drawImage(video, 0, 0, small.width, small.height);
    const blob = await new Promise((done) => small.toBlob(done, "image/jpeg", 0.85));
    const answer = await ask(blob);
    if (!stream || mine !== shown) return;
    if (!answer) {
      await new Promise((done) => setTimeout(done, RETRY_MS));
      before = performance.now();
      continue;
    }
    draw(small, small.width, small.height, answer.faces);
    list(answer.faces);
    say(found(answer.faces));
    const now = performance.now();
    rate = rate ? 0.8 * rate + 200 / (now - before) : 1000 / (now - before);
    before = now;
    at("speed").textContent = `${rate.toFixed(1)} frames/s, ${answer.ms.toFixed(0)} ms each`;
  }
}

function stop() {
  shown += 1;
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  camera.textContent = "Start the camera";
}

camera.addEventListener("click", () => (stream ? stop() : start()));
file.addEventListener("change", () => {
  if (file.files.length) picture(file.files[0]);
  file.value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) {
      picture(event.dataTransfer.files[0]);
    }
  });
}
