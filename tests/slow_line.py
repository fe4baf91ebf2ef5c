"""An ssh ProxyCommand over a slow line: `slow_line.py HOST PORT BYTES_A_SECOND`."""

import os
import socket
import sys
import threading
import time

BLOCK = 16_384


def main() -> None:
    host, port, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    with socket.create_connection((host, port)) as line:

        def back() -> None:
            while block := line.recv(65_536):
                os.write(1, block)
            os._exit(0)

        threading.Thread(target=back, daemon=True).start()
        while block := os.read(0, BLOCK):
            line.sendall(block)
            time.sleep(len(block) / rate)


if __name__ == "__main__":
    main()
