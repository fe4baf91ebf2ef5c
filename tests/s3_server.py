"""An S3 server on loopback that checks every signature: moto's, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BUCKET = "adapters"
# The port is the system's choice; the server ends with its standard input, so also with a killed test.
_PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
_EVERYTHING = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'


class S3Server:
    """The server; `variables` are the environment of a client that it knows, with a key of its own."""

    def __init__(self, folder: Path) -> None:
        self._log = open(folder / "s3.log", "wb")  # noqa: SIM115 - closed by stop
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True, env=environment | {"INITIAL_NO_AUTH_ACTION_COUNT": "4"},
        )  # fmt: skip
        assert self.process.stdout
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.key, self.secret = self._user()
        self.variables = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def _user(self) -> tuple[str, str]:
        """Make a bucket and the one user, by the four requests that the server takes from anybody."""
        self._client("s3", "first", "first").create_bucket(Bucket=BUCKET)
        iam = self._client("iam", "first", "first")
        iam.create_user(UserName="edgeplm")
        iam.put_user_policy(UserName="edgeplm", PolicyName="all", PolicyDocument=_EVERYTHING)
        key = iam.create_access_key(UserName="edgeplm")["AccessKey"]
        return str(key["AccessKeyId"]), str(key["SecretAccessKey"])

    def client(self) -> Any:
        """boto3's own client, to look at what lies there."""
        return self._client("s3", self.key, self.secret)

    def _client(self, service: str, key: str, secret: str) -> Any:
        import boto3

        return boto3.client(
            service, endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=key,
            aws_secret_access_key=secret,
        )  # fmt: skip

    def stop(self) -> None:
        """End the server; nothing that it held is left."""
        self.process.kill()
        self.process.communicate()
        self._log.close()
