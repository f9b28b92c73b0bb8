// How numbers and words stand on the page.

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const whole = (value) => (value == null ? "–" : grouped.format(value));

export function percent(value, digits = 0) {
  return value == null ? "–" : `${(100 * value).toFixed(digits)}%`;
}

/** A figure with few digits: 0.00123, 12.3, 1,234. */
export function figure(value) {
  if (value == null) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size >= 1000) return whole(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

export function seconds(value) {
  if (value < 90) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

/** What became of an episode, in a word. */
export function outcome(episode) {
  if (episode.status !== "ok") return "failed";
  if (episode.success) return "won";
  return episode.truncated ? "cut" : "lost";
}
