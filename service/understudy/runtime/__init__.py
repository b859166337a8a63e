"""What the service needs of the operating system: IPC, supervision, sharing cores, garbage collection."""
