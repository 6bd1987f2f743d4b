// SPDX-License-Identifier: Apache-2.0
//
// A volume as a local device, and back. Two ways: the kernel's own NBD client where the machine has it,
// else nbdfuse (the disk as a file) with a loop device on that file. What was put up is written into the
// pool's directory (attached/ID.json) before it is put up, step by step, so that whatever happened
// in between can be taken down again, by another process and after a restart. Files go by the volume's id,
// which stays when the volume is renamed; the name in them is for when no daemon can tell the id.
//
//   up     state ─ nbdfuse ─ loop          down   loop ─ FUSE mount ─ nbdfuse ─ state
//
// The order down matters: a FUSE mount taken away below a loop device leaves a dead mount behind.

import { join } from "node:path";
import { StorageError } from "../base/errors.ts";
import { createClock } from "../host/node/clock.ts";
import { userId } from "../host/node/process-usage.ts";
import {
  endProgram,
  isRunning,
  type ProcessIdentity,
  runProgram,
  startProgram,
} from "../host/node/program.ts";
import {
  createText,
  fileKind,
  listNames,
  makePrivateDirectory,
  readText,
  removeEmptyDirectory,
  removeFile,
  writeText,
} from "../host/node/text-file.ts";

export type Method = "kernel-nbd" | "fuse-loop" | "fuse";

/** What is up, or may be. Fields appear in the order of the steps. */
export interface Attachment {
  readonly volumeId: number;
  /** Its name when it was attached, or what `varve rename` made of that. */
  readonly volume: string;
  readonly method: Method;
  readonly isReadOnly: boolean;
  /** Where nbdfuse is mounted. */
  readonly mountPoint?: string;
  readonly nbdfuse?: ProcessIdentity;
  /** /dev/loop0 or /dev/nbd0. */
  readonly device?: string;
}

export interface AttachOptions {
  readonly uri: string;
  readonly socketPath: string;
  readonly isReadOnly: boolean;
  /** A file through FUSE isn't good enough. */
  readonly isDeviceNeeded: boolean;
}

const FOLDER = "attached";
/** The disk's name below the mount point. */
const DISK = "disk";
const WAIT_MS_MAX = 10_000;
const WAIT_STEP_MS = 20;
const NBD_DEVICE_COUNT_MAX = 64;

/** Everything that is up in the pool, or may be; by volume. */
export async function attachmentsOf(pool: string): Promise<Attachment[]> {
  const folder = join(pool, FOLDER);
  const names = ((await listNames(folder)) ?? []).filter((name) => /^\d+\.json$/.test(name));
  const states = await Promise.all(names.map((name) => readState(join(folder, name))));
  return states.filter((state) => state !== undefined).sort((a, b) => a.volumeId - b.volumeId);
}

async function readState(path: string): Promise<Attachment | undefined> {
  const text = await readText(path);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as Attachment;
  } catch (cause) {
    // biome-ignore lint/style/useErrorCause: it is in the details, which the rule doesn't see
    throw new StorageError("ATTACH_FAILED", `attachment "${path}": not read: it isn't JSON`, {
      cause,
    });
  }
}

export class AttachmentPlace {
  readonly #volume: string;
  readonly #volumeId: number;
  readonly #folder: string;

  constructor(pool: string, volume: { readonly id: number; readonly name: string }) {
    this.#volume = volume.name;
    this.#volumeId = volume.id;
    this.#folder = join(pool, FOLDER);
  }

  async attach(options: AttachOptions): Promise<Attachment> {
    await makePrivateDirectory(this.#folder);
    const method = await this.#chooseMethod(options);
    const start: Attachment = {
      volumeId: this.#volumeId,
      volume: this.#volume,
      method,
      isReadOnly: options.isReadOnly,
    };
    if (!(await createText(this.#statePath, JSON.stringify(start))))
      await this.#refuseOrClear(start);
    try {
      return method === "kernel-nbd"
        ? await this.#attachKernel(start, options)
        : await this.#attachFuse(start, options);
    } catch (error) {
      const state = await this.#read();
      if (state !== undefined) await this.#takeDown(state);
      throw error;
    }
  }

  async detach(): Promise<Attachment> {
    const state = await this.#read();
    if (state === undefined) throw notAttached(this.#volume);
    await this.#takeDown(state);
    return state;
  }

  /** The volume has this name now. */
  async renamed(): Promise<void> {
    const state = await this.#read();
    if (state !== undefined) await this.#write({ ...state, volume: this.#volume });
  }

  get #statePath(): string {
    return join(this.#folder, `${this.#volumeId}.json`);
  }

  get #mountPoint(): string {
    return join(this.#folder, String(this.#volumeId));
  }

  get #logPath(): string {
    return join(this.#folder, `${this.#volumeId}.log`);
  }

  get #pidPath(): string {
    return join(this.#folder, `${this.#volumeId}.pid`);
  }

  #read(): Promise<Attachment | undefined> {
    return readState(this.#statePath);
  }

  async #write(state: Attachment): Promise<Attachment> {
    await writeText(this.#statePath, JSON.stringify(state));
    return state;
  }

  /** There is a state already: what is up stays up, what has died is cleared away. */
  async #refuseOrClear(start: Attachment): Promise<void> {
    const state = await this.#read();
    if (state !== undefined && (await isUp(state))) {
      const path = pathOf(state);
      throw new StorageError(
        "VOLUME_BUSY",
        `volume "${this.#volume}": not attached: it is attached already, as ${path}`,
        {
          hint: `use ${path}, or take it away with "varve detach ${this.#volume}"`,
          data: { path },
        },
      );
    }
    if (state !== undefined) await this.#takeDown(state);
    await this.#write(start);
  }

  async #chooseMethod({ isDeviceNeeded }: AttachOptions): Promise<Method> {
    const isRoot = userId() === 0;
    if (!isRoot && isDeviceNeeded) {
      throw new StorageError(
        "ACCESS_DENIED",
        `volume "${this.#volume}": not attached: a block device needs root`,
        {
          hint: "run it as root, or leave --device out and use the file",
        },
      );
    }
    if (!isRoot) return "fuse";
    return (await hasKernelNbd()) ? "kernel-nbd" : "fuse-loop";
  }

  async #attachKernel(start: Attachment, options: AttachOptions): Promise<Attachment> {
    const device = await freeNbdDevice();
    if (device === undefined) throw this.#failed("every /dev/nbd is in use");
    // Before the command: if it is interrupted, the device is known.
    const state = await this.#write({ ...start, device });
    const readOnly = options.isReadOnly ? ["-readonly"] : [];
    const args = [
      "-unix",
      options.socketPath,
      device,
      "-name",
      this.#volume,
      "-persist",
      ...readOnly,
    ];
    const { status, stderr } = await runProgram("nbd-client", args);
    if (status !== 0)
      throw this.#failed(`nbd-client ended with status ${status}: ${lastLine(stderr)}`);
    return state;
  }

  async #attachFuse(start: Attachment, options: AttachOptions): Promise<Attachment> {
    const mountPoint = this.#mountPoint;
    await makePrivateDirectory(mountPoint);
    let state = await this.#write({ ...start, mountPoint });
    const disk = join(mountPoint, DISK);
    await removeFile(this.#pidPath);
    const readOnly = options.isReadOnly ? ["--readonly"] : [];
    const args = ["--pidfile", this.#pidPath, ...readOnly, disk, options.uri];
    const nbdfuse = await startProgram("nbdfuse", args, this.#logPath);
    state = await this.#write({ ...state, nbdfuse });
    const isMounted = await waitUntil(async () => {
      return !isRunning(nbdfuse) || (await readText(this.#pidPath)) !== undefined;
    });
    if (!isMounted || !isRunning(nbdfuse)) {
      throw this.#failed(
        `nbdfuse didn't mount it: ${lastLine((await readText(this.#logPath)) ?? "")}`,
      );
    }
    if (start.method === "fuse") return state;
    const mode = options.isReadOnly ? ["--read-only"] : [];
    const args2 = ["--direct-io=on", "--find", "--show", ...mode, disk];
    const { status, stdout, stderr } = await runProgram("losetup", args2);
    if (status === 0) return this.#write({ ...state, device: stdout.trim() });
    if (options.isDeviceNeeded) {
      throw this.#failed(`losetup ended with status ${status}: ${lastLine(stderr)}`);
    }
    return this.#write({ ...state, method: "fuse" });
  }

  /** Everything away, in order; what is gone already is passed over. Throws VOLUME_BUSY while in use. */
  async #takeDown(state: Attachment): Promise<void> {
    const { device, mountPoint, nbdfuse } = state;
    if (device !== undefined && (await isOurs(state))) {
      await this.#refuseWhileMounted(device);
      if (state.method === "kernel-nbd") await this.#disconnectKernel(device);
      else await this.#detachLoop(state, device);
    }
    if (mountPoint !== undefined && (await isMountPoint(mountPoint)))
      await this.#unmount(mountPoint);
    if (nbdfuse !== undefined) {
      const hasEnded = await waitUntil(async () => !isRunning(nbdfuse));
      if (!hasEnded) endProgram(nbdfuse);
    }
    if (mountPoint !== undefined) await removeEmptyDirectory(mountPoint);
    await removeFile(this.#pidPath);
    await removeFile(this.#logPath);
    await removeFile(this.#statePath);
  }

  async #refuseWhileMounted(device: string): Promise<void> {
    const mounts = (await readText("/proc/self/mounts")) ?? "";
    const mounted = mounts
      .split("\n")
      .map((line) => line.split(" "))
      .find(([source = ""]) => source === device || source.startsWith(`${device}p`));
    const holders = (await listNames(`/sys/block/${device.replace("/dev/", "")}/holders`)) ?? [];
    const swaps = (await readText("/proc/swaps")) ?? "";
    const use =
      mounted !== undefined
        ? `is mounted on ${unescapeMount(mounted[1] ?? "")}`
        : holders.length > 0
          ? `is held by ${holders.join(", ")}`
          : swaps.includes(`${device} `)
            ? "is in use as swap"
            : undefined;
    if (use === undefined) return;
    const hint =
      mounted === undefined
        ? `stop what uses ${device} first`
        : `umount ${unescapeMount(mounted[1] ?? "")}`;
    throw new StorageError(
      "VOLUME_BUSY",
      `volume "${this.#volume}": not detached: ${device} ${use}`,
      {
        hint,
        data: { device },
      },
    );
  }

  async #disconnectKernel(device: string): Promise<void> {
    await runProgram("blockdev", ["--flushbufs", device]);
    const { status, stderr } = await runProgram("nbd-client", ["-d", device]);
    if (status !== 0) throw this.#failed(`nbd-client -d ${device} failed: ${lastLine(stderr)}`);
  }

  async #detachLoop(state: Attachment, device: string): Promise<void> {
    await runProgram("blockdev", ["--flushbufs", device]);
    const { status, stderr } = await runProgram("losetup", ["--detach", device]);
    if (status !== 0) throw this.#failed(`losetup --detach ${device} failed: ${lastLine(stderr)}`);
    // The kernel detaches a loop that somebody has open only when they close it.
    const isGone = await waitUntil(async () => !(await isOurs(state)));
    if (isGone) return;
    throw new StorageError(
      "VOLUME_BUSY",
      `volume "${this.#volume}": not detached: a process has ${device} open`,
      {
        hint: `see which: fuser -v ${device}`,
        data: { device },
      },
    );
  }

  async #unmount(mountPoint: string): Promise<void> {
    const first = await runProgram("fusermount3", ["-u", mountPoint]);
    if (first.status === 0) return;
    // A mount whose nbdfuse has died only goes this way.
    const second = await runProgram("umount", [mountPoint]);
    if (second.status === 0) return;
    throw new StorageError(
      "VOLUME_BUSY",
      `volume "${this.#volume}": not detached: ${lastLine(first.stderr)}`,
      {
        hint: `see who uses it: fuser -vm ${mountPoint}`,
        data: { mountPoint },
      },
    );
  }

  #failed(why: string): StorageError {
    return new StorageError("ATTACH_FAILED", `volume "${this.#volume}": not attached: ${why}`);
  }
}

export function notAttached(volume: string): StorageError {
  return new StorageError("NOT_ATTACHED", `volume "${volume}": not detached: it isn't attached`);
}

/** What the user works with: the device, or the file. */
export function pathOf({ device, mountPoint }: Attachment): string {
  return device ?? join(mountPoint ?? "", DISK);
}

/** Anything of it is there: the device, or the program behind it. */
export async function isUp(state: Attachment): Promise<boolean> {
  if (state.device !== undefined && (await isOurs(state))) return true;
  return state.nbdfuse !== undefined && isRunning(state.nbdfuse);
}

/** The device still is what we made it; loops are given to others once they are free. */
async function isOurs({ method, device = "", mountPoint = "" }: Attachment): Promise<boolean> {
  const name = device.replace("/dev/", "");
  if (method === "kernel-nbd") return (await readText(`/sys/block/${name}/pid`)) !== undefined;
  const backing = await readText(`/sys/block/${name}/loop/backing_file`).catch(() => undefined);
  return backing?.trim() === join(mountPoint, DISK);
}

async function hasKernelNbd(): Promise<boolean> {
  if ((await fileKind("/dev/nbd0")) === "block-device") return true;
  return (await fileKind("/sys/module/nbd")) === "directory";
}

async function freeNbdDevice(): Promise<string | undefined> {
  for (let index = 0; index < NBD_DEVICE_COUNT_MAX; index += 1) {
    if ((await fileKind(`/dev/nbd${index}`)) !== "block-device") return undefined;
    if ((await readText(`/sys/block/nbd${index}/pid`)) === undefined) return `/dev/nbd${index}`;
  }
  return undefined;
}

async function isMountPoint(path: string): Promise<boolean> {
  const mounts = (await readText("/proc/self/mounts")) ?? "";
  return mounts.split("\n").some((line) => unescapeMount(line.split(" ")[1] ?? "") === path);
}

/** /proc/self/mounts writes blanks as \040. */
function unescapeMount(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

async function waitUntil(isTrue: () => Promise<boolean>): Promise<boolean> {
  const clock = createClock();
  const end = clock.monotoneMicros() + WAIT_MS_MAX * 1000;
  while (!(await isTrue())) {
    if (clock.monotoneMicros() > end) return false;
    await new Promise<void>((resolve) => void clock.after(WAIT_STEP_MS, resolve));
  }
  return true;
}

function lastLine(text: string): string {
  return text.trim().split("\n").at(-1) ?? "";
}
