/** Files of a drop with their paths, folders gone through. */
export async function dropped(transfer) {
  // The entries are gone after the first wait.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry);
  return (await Promise.all(entries.map(under))).flat();
}

async function under(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, path: entry.fullPath }];
  }
  const reader = entry.createReader(), found = [];
  for (;;) {  // a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map(under))).flat();
}

/** A form of a scan's files and of what is given by role, a file or the UID of a series.
 *
 * @param {{files: {file: File, path: string}[], roles: Object}} sent
 */
export function formOf({ files, roles }) {
  const form = new FormData();
  files.forEach(({ file, path }) => form.append("scan", file, path));
  for (const [role, given] of Object.entries(roles)) form.append(role, given);
  return form;
}

/** Posts a form; the answer's body and headers, or an Error with the line that the server says.
 *
 * @param {(share: number) => void} [onProgress] of the upload
 */
export function post(address, form, onProgress = () => {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();  // fetch does not report how much of an upload is done
    request.open("POST", address);
    request.responseType = "arraybuffer";
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.upload.onload = () => onProgress(1);
    request.onerror = () => reject(new Error("the server cannot be reached, or refused the upload: see whether it runs"));
    request.onload = () => {
      if (request.status === 200) resolve(request);
      else reject(new Error(said(request)));
    };
    request.send(form);
  });
}

function said(request) {
  const text = new TextDecoder().decode(request.response);
  try {
    return JSON.parse(text).error;
  } catch {
    return `the server says ${request.status}: ${text.slice(0, 200)}`;
  }
}

/** Hands content to the user as a file. */
export function save(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content]));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
