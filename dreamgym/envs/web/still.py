"""A script for every page: says when the page has done what it has begun, so that nobody waits a fixed time for it."""

STILL = """
// Counted are timers of a second at most, requests, and animations that end.
(() => {
  if (window.__dreamgymStill) return;
  const SOON_MS = 1000;
  const timers = new Set();
  let requests = 0;
  const setLater = window.setTimeout;
  const clearLater = window.clearTimeout;
  window.setTimeout = function (handler, delay, ...rest) {
    const run = function (...given) {
      timers.delete(id);
      return typeof handler === "function" ? handler.apply(this, given) : (0, eval)(handler);
    };
    const id = setLater.call(window, run, delay, ...rest);
    if ((Number(delay) || 0) <= SOON_MS) timers.add(id);
    return id;
  };
  window.clearTimeout = function (id) {
    timers.delete(id);
    return clearLater.call(window, id);
  };
  const send = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.send = function (...rest) {
    requests += 1;
    this.addEventListener("loadend", () => { requests -= 1; }, { once: true });
    return send.apply(this, rest);
  };
  const fetchIt = window.fetch;
  if (fetchIt) {
    window.fetch = function (...rest) {
      requests += 1;
      return fetchIt.apply(this, rest).finally(() => { requests -= 1; });
    };
  }
  const moving = () => document.getAnimations().filter((animation) => {
    const timing = animation.effect && animation.effect.getComputedTiming();
    return animation.playState === "running" && timing && Number.isFinite(timing.endTime);
  }).length;
  window.__dreamgymStill = (limit) => new Promise((resolve) => {
    const begin = performance.now();
    let quiet = 0;
    const look = () => {
      quiet = timers.size + requests + moving() === 0 ? quiet + 1 : 0;
      if (quiet >= 2 || performance.now() - begin >= limit) resolve(performance.now() - begin);
      else setLater.call(window, look, 16);
    };
    look();
  });
})();
"""
