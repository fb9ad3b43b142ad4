// Plays a sound and its training clip in step, one pair at a time. `data-lag`: seconds by which the
// clip's excerpt begins before the file's. Nothing is sought but the start: browsers lose their way
// in FLAC that begins with silence.
let later = 0;
const all = (css, run) => document.querySelectorAll(css).forEach(run);
const play = (sound) => sound.play().catch(() => {}); // another one was started meanwhile
function quiet() {
  clearTimeout(later);
  all("button[data-ear]", (one) => one.setAttribute("aria-pressed", "false"));
  all("audio", (one) => one.pause());
}
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button[data-ear]");
  if (!button) return;
  const pair = button.closest(".pair"), [a, b] = pair.querySelectorAll("audio");
  const pressed = pair.querySelector("[aria-pressed=true]"), ear = button.dataset.ear;
  if (!pressed || pressed === button) quiet();
  else pressed.setAttribute("aria-pressed", "false"); // the ear changes while both go on
  if (pressed === button) return;
  a.muted = ear === "b";
  b.muted = ear === "a";
  button.setAttribute("aria-pressed", "true");
  if (pressed) return;
  const lag = Number(pair.dataset.lag), [first, second] = lag > 0 ? [b, a] : [a, b];
  a.currentTime = b.currentTime = 0;
  play(first);
  later = setTimeout(() => play(second), 1000 * Math.abs(lag));
  const ended = () => {
    if (!a.paused || !b.paused) return;
    quiet();
    a.muted = b.muted = false;
  };
  a.onended = b.onended = ended;
});
// one sound at a time, except a pair
document.addEventListener("play", (event) => {
  const pair = event.target.closest?.(".pair");
  all("audio", (one) => {
    if (one !== event.target && !(pair && pair.contains(one))) one.pause();
  });
}, true);
