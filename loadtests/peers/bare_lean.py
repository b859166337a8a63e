"""The bare handler on this service's connection instead of uvicorn's own: what that alone gives."""

import os

import uvicorn

from understudy.http import connection

if __name__ == "__main__":
    connection.install()
    uvicorn.run("loadtests.peers.bare:app", port=int(os.environ["PORT"]), access_log=False)
