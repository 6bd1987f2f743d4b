// SPDX-License-Identifier: Apache-2.0
//
// An export from the moment a client has it until it lets go: in the register of clients, counted, and
// told of as events. The same for live disks and for views.

import type { Clock } from "../host/ports.ts";
import type { BlockDevice, OpenExport, Visitor } from "../nbd/block-device.ts";
import type { ResolvedMoment } from "../pool/types.ts";
import type { ClientRegistry } from "./clients.ts";
import { CountedDevice } from "./counted-device.ts";
import type { EventLog } from "./event-log.ts";

/** Where comings and goings are noted. */
export interface AttendanceBook {
  readonly clients: ClientRegistry;
  readonly events: EventLog;
  readonly clock: Clock;
}

export interface ExportToAttach {
  readonly visitor: Visitor;
  /** As the client named it. */
  readonly asked: string;
  readonly volume: { readonly id: number; readonly name: string };
  /** Of a view. */
  readonly moment?: ResolvedMoment;
  readonly device: BlockDevice;
  readonly canonicalName: string;
  readonly description: string;
  /** Called once, when the client has let go. */
  readonly close?: () => void;
}

/** Throws VOLUME_BUSY while the live volume is being changed. */
export function attachExport(
  { clients, events, clock }: AttendanceBook,
  { visitor, asked, volume, moment, device: shared, close, ...told }: ExportToAttach,
): OpenExport {
  const device = new CountedDevice(shared, { isRelative: moment?.isRelative ?? false });
  const leave = clients.add({
    ...visitor,
    exportName: asked,
    volumeId: volume.id,
    connectedMicros: clock.wallMicros(),
    device,
    ...(moment === undefined ? {} : { moment }),
  });
  const subject = {
    volume: volume.name,
    ...(moment === undefined ? {} : { moment: moment.stableName }),
    client: visitor.identity.address,
  };
  // The door has its own lines in the log for this.
  const tell = (event: string, fields: Record<string, unknown> = {}): void =>
    events.tell({
      timeMicros: Math.floor(clock.wallMicros()),
      level: "info",
      event,
      fields: { ...subject, ...fields },
    });
  tell("client.attached");
  return {
    device,
    stableName: moment?.stableName ?? volume.name,
    canonicalName: told.canonicalName,
    description: told.description,
    close: () => {
      leave();
      const { requestCount, readBytes, writeBytes } = device;
      tell("client.left", { requestCount, readBytes, writeBytes });
      close?.();
    },
  };
}
