/** What startHoldfast rejects with. code is for programs, message for people. */
export class HoldfastError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.name = "HoldfastError";
    this.code = code;
  }
}
