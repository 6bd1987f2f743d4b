// SPDX-License-Identifier: Apache-2.0
//
// What can be wrong with a request whose bytes were understood: the error that the specification names for
// it, and a sentence for the human behind a client with structured replies.

import { NBD_ERROR } from "../base/errors.ts";

/** Why a request is answered without the device. */
export interface Refusal {
  readonly errno: number;
  readonly message: string;
}

const { EINVAL, EPERM, ENOSPC, EOVERFLOW, ENOMEM, ESHUTDOWN } = NBD_ERROR;

/** A success that the device has no part in. */
export const NOTHING_WRONG: Refusal = { errno: 0, message: "" };

type RefusalName =
  | "FLAG"
  | "READ_ONLY"
  | "BEYOND_END"
  | "NO_SPACE"
  | "SHUTDOWN"
  | "LONG_READ"
  | "OVERFLOW"
  | "NO_MEMORY"
  | "FLUSH_RANGE"
  | "NO_CONTEXT"
  | "EMPTY_STATUS"
  | "PAYLOAD"
  | "UNKNOWN_COMMAND";

export const REFUSAL: Readonly<Record<RefusalName, Refusal>> = {
  FLAG: { errno: EINVAL, message: "a flag that this command doesn't take" },
  READ_ONLY: { errno: EPERM, message: "the export is read-only" },
  BEYOND_END: { errno: EINVAL, message: "beyond the end of the export" },
  NO_SPACE: { errno: ENOSPC, message: "beyond the end of the export" },
  SHUTDOWN: { errno: ESHUTDOWN, message: "the server is shutting down" },
  LONG_READ: { errno: EINVAL, message: "a read of more than 32 MiB" },
  OVERFLOW: { errno: EOVERFLOW, message: "a read of more than 32 MiB" },
  NO_MEMORY: { errno: ENOMEM, message: "not enough memory for clients" },
  FLUSH_RANGE: { errno: EINVAL, message: "flush takes no offset and no length" },
  NO_CONTEXT: { errno: EINVAL, message: "no metadata context was selected" },
  EMPTY_STATUS: { errno: EINVAL, message: "a status of no bytes" },
  PAYLOAD: { errno: EINVAL, message: "a payload that this command doesn't take" },
  UNKNOWN_COMMAND: { errno: EINVAL, message: "unknown command" },
};

/** What the commands differ in, when they are checked. */
export interface Rules {
  readonly isChange: boolean;
  readonly beyond: Refusal;
}
export const READING: Rules = { isChange: false, beyond: REFUSAL.BEYOND_END };
export const TRIMMING: Rules = { isChange: true, beyond: REFUSAL.BEYOND_END };
export const WRITING: Rules = { isChange: true, beyond: REFUSAL.NO_SPACE };
