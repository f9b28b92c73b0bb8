// Where the reader is: #/run/KEY/PAGE/ID?parameters. Every view has an address, so that "back" leads back.

export function parse(hash) {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const params = new URLSearchParams(search);
  if (parts[0] === "run") return { run: parts[1], page: parts[2] || "overview", id: parts[3] || "", params };
  return { run: "", page: parts[0] || "runs", id: "", params };
}

export function link(run, page, id = "", params = {}) {
  const parts = run ? ["run", run, page, id] : [page, id];
  const path = parts.filter(Boolean).map(encodeURIComponent).join("/");
  const asked = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== "" && value != null));
  return `#/${path}${asked.size ? `?${asked}` : ""}`;
}
