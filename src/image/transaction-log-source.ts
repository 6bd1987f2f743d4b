// SPDX-License-Identifier: Apache-2.0
//
// A transaction log of nbd-server as changes of a disk. The order is that in which the server received the
// requests. It may have carried out two that overlap and were under way at the same time in the other order;
// the log doesn't say, and a client that cared would have waited.

import type { DiskFile } from "../host/ports.ts";
import { COMMAND_FLAG, WIRE } from "../nbd/constants.ts";
import { type LoggedChange, type LogSurvey, logChanged, type SeedLog } from "./seed-log.ts";
import { TransactionLogReader } from "./transaction-log.ts";
import { CHANGE_OF_COMMAND, TransactionLogSurvey } from "./transaction-log-survey.ts";

export class TransactionLogSource implements SeedLog {
  readonly format = "nbd-transactionlog";
  readonly #file: DiskFile;
  readonly #name: string;
  #survey: TransactionLogSurvey | undefined;

  constructor(file: DiskFile, name: string) {
    this.#file = file;
    this.#name = name;
  }

  async survey(): Promise<LogSurvey> {
    const fileBytes = await this.#file.sizeBytes();
    const survey = new TransactionLogSurvey(this.#file, fileBytes, this.#name);
    await survey.run();
    this.#survey = survey;
    const { changeCount, endBytes, leftOutCount, leftOut, warnings, damage } = survey;
    const logBytes = survey.endPosition;
    return { logBytes, changeCount, endBytes, leftOutCount, leftOut, warnings, damage };
  }

  async *changes(): AsyncGenerator<LoggedChange, void, undefined> {
    const survey = this.#survey;
    if (survey === undefined) return;
    const reader = new TransactionLogReader(this.#file, survey.endPosition);
    const { record } = reader;
    let index = 0;
    while (record.end < survey.endPosition) {
      const end = await reader.next();
      if (end !== undefined) throw logChanged(this.#name);
      if (record.kind !== "request") continue;
      const isAccepted = survey.isAccepted(index);
      index += 1;
      if (!isAccepted) continue;
      const kind = CHANGE_OF_COMMAND.get(record.command);
      if (kind === undefined) throw logChanged(this.#name);
      const isFlush = kind === "flush";
      yield {
        kind,
        offsetBytes: isFlush ? 0 : record.offsetBytes,
        lengthBytes: isFlush ? 0 : record.lengthBytes,
        isHoleForbidden: (record.flags & COMMAND_FLAG.NO_HOLE) !== 0,
        isForceUnitAccess: (record.flags & COMMAND_FLAG.FUA) !== 0,
        file: this.#file,
        dataPosition: record.position + WIRE.REQUEST,
        timeMicros: undefined,
        place: `byte ${record.position}`,
        doneBytes: record.end,
      };
    }
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
