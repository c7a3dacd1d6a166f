"""Secrets of every kind, planted in every text of a report: none is in anything that leaves the machine.

All are made up, and put together from parts, so that nobody's scanner takes them for real.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from functools import lru_cache
from typing import Any

import pytest

from fp8doctor import api
from fp8doctor.api.assembling import read_report
from fp8doctor.judging.report import OutcomeRecord, ProbeRecord, Report
from fp8doctor.model import Action, Evidence, Facts
from fp8doctor.plain import split_optional, to_plain
from fp8doctor.reporting.redaction import Identity, redact
from tests.conftest import has_charts
from tests.sample_reports import HEALTHY

NOBODY = Identity()

A36 = "a1B2c3D4e5F6g7H8i9J0" + "k1L2m3N4o5P6q7R8"
A40 = A36 + "s9T0"
HEX32 = "0f1e2d3c4b5a6978" * 2
HEX40 = HEX32 + "8796a5b4"
WORD = "correcthorse" + "batterystaple"
PEM = "MIIEvQIBADANBgkq" + "hkiG9w0BAQEFAASC"
GPU = "5a1c0ffe-1111-4222-8333-44445555" + "6666"


@dataclasses.dataclass(frozen=True)
class Plant:
    """A secret as it stands in texts, and the words of it that nobody may read afterwards."""

    name: str
    texts: tuple[str, ...]
    gone: tuple[str, ...]


def token(name: str, *parts: str) -> Plant:
    """Something that tells by its form alone what it is, wherever it stands."""
    whole = "".join(parts)
    texts = (whole, f"the key {whole} was refused", f"/opt/app/{whole}/lib.so", f"X={whole}", f'{{"x": "{whole}"}}')
    return Plant(name, texts, (whole, parts[-1]))


def value(name: str, secret: str, *texts: str) -> Plant:
    """Something that tells by what stands around it; "§" in the texts is its place."""
    return Plant(name, tuple(text.replace("§", secret) for text in texts), (secret,))


TOKENS = [
    token("Hugging Face", "hf_", A36[:34]),
    token("GitHub, personal", "ghp_", A36),
    token("GitHub, OAuth", "gho_", A36),
    token("GitHub, user to server", "ghu_", A36),
    token("GitHub, server to server", "ghs_", A36),
    token("GitHub, refresh", "ghr_", A36 * 2),
    token("GitHub, fine-grained", "github_pat_", A36[:22] + "_" + A36),
    token("GitLab, personal", "glpat-", A36[:20]),
    token("GitLab, runner", "glrt-", A36[:20]),
    token("GitLab, deploy", "gldt-", A36[:20]),
    token("GitLab, job", "glcbt-", A36[:24]),
    token("OpenAI", "sk-", "proj-", A40 + A40),
    token("OpenAI, old", "sk-", A36 + A36[:12]),
    token("Anthropic", "sk-", "ant-api03-", A40 + "-" + A36),
    token("OpenRouter", "sk-", "or-v1-", HEX32 * 2),
    token("AWS id", "AKIA", "Q7R8S9T0U1V2W3X4"),
    token("AWS id, temporary", "ASIA", "Q7R8S9T0U1V2W3X4"),
    token("AWS session", "IQoJb3JpZ2lu", "X2VjE" + A40 + A40),
    token("Slack, bot", "xoxb-", "123456789012-1234567890123-" + A36[:24]),
    token("Slack, user", "xoxp-", "123456789012-" + A36[:24]),
    token("Google", "AIza", "Sy" + A36[:33]),
    token("Google, OAuth", "ya29.", "a0Af" + A40),
    token("Google, client", "GOCSPX-", A36[:28]),
    token("NVIDIA NGC", "nvapi-", A40 + A36[:24]),
    token("npm", "npm_", A36),
    token("PyPI", "pypi-", "AgEIcHlwaS5vcmc" + A40 + A40),
    token("Docker", "dckr_pat_", A36[:27]),
    token("Docker, organisation", "dckr_oat_", A36[:27]),
    token("Stripe", "sk_", "live_" + A36[:24]),
    token("Groq", "gsk_", A40 + A36[:12]),
    token("Replicate", "r8_", A40[:37]),
    token("xAI", "xai-", A40 + A40),
    token("Vault", "hvs.", A40 + A36[:24]),
    token("Databricks", "dapi", HEX32),
    token("DigitalOcean", "dop_v1_", HEX32 * 2),
    token("SendGrid", "SG.", A36[:22] + "." + A40),
    token("W&B", "wandb_v1_", A40 + A36),
    token("Fireworks", "fw_", A36[:24]),
    token("Discord bot", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTA", ".GaBcDe." + A40[:38]),
    token("LangSmith", "lsv2_", "pt_" + HEX32 + "_0f1e2d3c4b"),
    token("Tailscale", "tskey-", "auth-" + A36[:20] + "-" + A36),
    token("Grafana", "glsa_", A36[:32] + "_0f1e2d3c"),
    token("JWT", "eyJ", "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NSJ9." + A40),
    token("age", "AGE-SECRET-KEY-1", ("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" * 2)[:58]),
    token("GPU", "GPU-", GPU),
    token("MIG", "MIG-", GPU),
    token("MIG, old", "MIG-GPU-", GPU),
]

VALUES = [
    value("GitHub in an address", "x-access-token:ghs_" + A36, "git clone https://§@github.com/acme/x.git"),
    value("AWS secret", "wJal" + A36, "aws_secret_access_key = §", "AWS_SECRET_ACCESS_KEY=§",
          "AKIA" + "Q7R8S9T0U1V2W3X4 §", "AKIA" + "Q7R8S9T0U1V2W3X4:§"),
    value("S3, presigned", HEX32 * 2, "https://acme-lab.s3.amazonaws.com/w?X-Amz-Expires=60&X-Amz-Signature=§",
          "GET /w?X-Amz-Signature=§ 403"),
    value("Azure storage", A40 * 2 + "==", "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=§;Suffix=y",
          "AZURE_STORAGE_KEY: account_key=§"),
    value("Azure SAS", A40 + "%3D", "https://x.blob.core.windows.net/c?sv=2022-11-02&se=2026&sp=r&sig=§",
          "?sv=2022-11-02&sig=§&sr=b"),
    value("a private key", PEM, "-----BEGIN PRIVATE KEY-----\n§\n-----END PRIVATE KEY-----",
          "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00FF\n\n§\n"
          "-----END RSA PRIVATE KEY-----",
          "-----BEGIN OPENSSH PRIVATE KEY-----\n§\n§\n-----END OPENSSH PRIVATE KEY-----",
          "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n§\n=x\n-----END PGP PRIVATE KEY BLOCK-----",
          "-----BEGIN EC PRIVATE KEY-----\n§ and here it was cut"),
    value("GCP service account", PEM,
          '{"type": "service_account", "private_key_id": "' + HEX40 + '", "private_key": '
          '"-----BEGIN PRIVATE KEY-----\\n§\\n-----END PRIVATE KEY-----\\n"}'),
    value("GCP key id", HEX40, '{"private_key_id": "§"}'),
    value("PuTTY key", A40, "Private-Lines: 2\n§\n§\nPrivate-MAC: 00"),
    value("Kubernetes key", "LS0tLS1CRUdJTi" + A40, "    client-key-data: §", "kubectl: § is no key"),
    value("Kubernetes token", "eyJ" + "hbGciOi.eyJ" + "pc3MiOiJ." + A36, "    token: §", "--token=§", "--token §"),
    value("bootstrap token", "abc123.0f1e2d3c4b5a6978", "kubeadm join --token §", "token=§"),
    value("Docker auth", "amFuZTpodW50ZXIy", '{"auths": {"https://index.docker.io/v1/": {"auth": "§"}}}',
          '{\\"auth\\": \\"§\\"}'),
    value("basic authentication", "amFuZTpodW50ZXIy", "Authorization: Basic §", "authorization: basic §", "Basic §",
          "curl -H 'Authorization: Basic §' x"),
    value("bearer", A40, "Authorization: Bearer §", "'authorization': 'Bearer §'", "sent Bearer § to it"),
    value("a header", WORD, "Authorization: §", "X-Auth-Token: t1§", "Cookie: session=§; theme=dark",
          "Set-Cookie: sid=§"),
    value("netrc", WORD, "machine api.wandb.ai login user password §",
          "machine git.acme-lab.com\n  login jdoe\n  password §"),
    value("W&B, old", HEX40, "WANDB_API_KEY=§", "wandb login §", "machine api.wandb.ai login user password §",
          '"api_key": "§"'),
    value("NGC, old", A40 * 2, "NGC_API_KEY=§", "NGC_CLI_API_KEY: §", "apikey = §"),
    value("a password", WORD, "password=§", "passwd: §", 'PASSWORD="§"', '{"password": "§"}',
          '{\\"password\\": \\"§\\"}', "mysql -u jdoe -p§ db", "sshpass -p § ssh x", "--password §",
          "docker login -u jdoe -p § registry", "Server=x;Uid=y;Pwd=§;", "SSH_PASSPHRASE=§", "curl -u jdoe:§ x"),
    value("a variable", WORD, "HF_TOKEN=§", "export OPENAI_API_KEY=§", "CLIENT_SECRET='§'", "MY_ACCESS_KEY=§"),
    value("an address with a password", WORD, "https://jdoe:§@pypi.acme-lab.com/simple",
          "postgresql://jdoe:§@db.acme-lab.com:5432/x", "mysql+pymysql://jdoe:§@10.0.0.7/x", "redis://:§@cache:6379/0",
          "mongodb+srv://jdoe:§@c0.acme-lab.net/x", "amqp://jdoe:§@mq//", "https://jdoe:p@§@x.acme-lab.com/",
          "jdoe:§@db.acme-lab.com"),
    value("an address with a token", WORD, "https://x.acme-lab.com/f?v=2&token=§", "/f?api_key=§&v=2",
          "?access_token=§", "/cb?code=§"),
    value("Slack webhook", "T0A1B2C3D/B0A1B2C3D/" + A36[:24], "https://hooks.slack.com/services/§"),
    value("Discord webhook", "123456789012345678/" + A40, "https://discord.com/api/webhooks/§"),
    value("Telegram", "123456789:AA" + A36[:33], "bot § is gone", "https://api.telegram.org/bot1/x?token=§"),
    value("npmrc", A36, "//registry.npmjs.org/:_authToken=npm_§", "_auth=§"),
    value("a hashed password", "$6$" + "saltsalt$" + A40, "root:§:19000:0:99999:7:::"),
    value("an SSH key", "AAAAC3NzaC1lZDI1NTE5" + A40, "ssh-ed25519 § jdoe@quux-laptop", "authorized: ssh-rsa §"),
    value("an SSH fingerprint", A40 + "abc", "RSA SHA256:§"),
    value("an argument, printed", "sk-" + "mykey1234", "Namespace(model='x', api_key=['§'], port=8000)",
          "{'api_key': ['§']}", '{"api_key": ["§"]}', "api_key=['§', 'another1']", "api_key=['another1', '§']",
          "admin_api_key='§'", "api_key=('§',)"),
    value("an argument of a word", WORD, "Namespace(hf_token='§')", "{'api_key': ['§']}", "ServerArgs(api_key='§')",
          "'hf_token': '§'", '{\\"client_secret\\": \\"§\\"}', "password='§'", "HF_TOKEN: §", "{HF_TOKEN: §}",
          "  HF_TOKEN: '§'\n  X: y", "api_key = '§'"),
    value("an argument with blanks", "correct horse \"battery", "Namespace(api_key='§', x=1)", "{'api_key': ['§']}",
          "password='§'"),
    value("a key of small letters", "abcd" * 4, "NGC_API_KEY: §", "OPENAI_KEY=§", "LICENSE_KEY=§", "LICENSE_KEY: §",
          "SECRET_KEY_BASE=§", "DB_PASS=§", "DB_PASS: §", "'OPENAI_KEY': '§'",
          '{\\"LICENSE_KEY\\": \\"§\\"}', "secret_key='§'",
          "accessToken: '§'", "POSTGRES_PASSWORD=§", "APP_SECRET: §"),
    value("Kaggle", HEX32, '{"username":"jdoe","key":"§"}', '{\\"username\\": \\"jdoe\\", \\"key\\": \\"§\\"}'),
    value("a login by a command", HEX32 * 2, "vastai set api-key §", "runpodctl config --apiKey §", "ngrok authtoken §",
          "ngrok config add-authtoken §", "echo § | docker login -u jdoe --password-stdin", "echo '§' | sudo -S ls",
          "echo -n § | docker login x --password-stdin"),
    value("a hashed password of Apache", "$apr1$" + "saltsalt$" + A36[:22], "bob:§", "§"),
    value("a token in an encoded address", "hf_" + A36[:34], "https://x.acme-lab.com/login?next=%2Ff%3Ftoken%3D§",
          "token%3D§"),
    value("a git ext" + "raheader", "eC1hY2Nlc3MtdG9rZW46" + A36, "http.extraheader=AUTHORIZATION: basic §"),
]  # fmt: skip

IDENTITIES = [
    value("a home", "quuxley", "/home/§/venv/bin/python", "see /home/§", "HOME=/home/§", "/Users/§/x",
          "/home2/§/x", "/nfs/home/§/x", "/lustre/home/§/x", "file:///home/§/w.whl", "C:\\Users\\§\\x",
          "C:\\\\Users\\\\§\\\\x", "C:/Users/§/x", "\\\\wsl$\\Ubuntu\\home\\§\\x", "/mnt/c/Users/§/x",
          "%2Fhome%2F§%2Fx", "/home/§:/opt"),
    Plant("a home with a space", (r"C:\Users\Quux Ley\AppData\x.dll", "/Users/Quux Ley/Library/x",
          "/home/Quux\\ Ley/x", "file:///C:/Users/Quux%20Ley/x"), ("Quux", "Ley")),
    value("a folder of a person", "quuxley", "/scratch/§/env", "/lustre/scratch/§", "/scratch/users/§/x",
          "/users/§/x", "/gpfs/users/§/x", "/data/users/§/x", "/media/§/disk", "/run/media/§/disk",
          "/tmp/torchinductor_§/x", "/var/mail/§", "~§/bin"),
    value("a user", "quuxley", "USER=§", "LOGNAME=§", '"USERNAME": "§"', "SLURM_JOB_USER=§", "user: §",
          "uid=1000(§) gid=1000(§) groups=1000(§),27(sudo)", "sudo -u § nvidia-smi", "su - §",
          "sudo: § : TTY=pts/0 ; PWD=/x ; USER=root ; COMMAND=/bin/ls", 'auth failed for user "§"',
          "machine x login § password y1", "§:x:1000:1000:,,,:/home/§:/bin/bash", "ssh -l § node17",
          "drwxr-xr-x 2 § users 4096 Nov 20 10:00 x", "§@node17:~$ nvidia-smi", "ssh -i ~/.ssh/id §@node17",
          "scp x §@login-2.acme-lab.com:y", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5" + A40 + " §@quux"),
    value("a person", "Quuxabel Leyson", "jd:x:1000:1000:§,,,:/home/jd:/bin/bash"),
    value("a host", "quux-node17", "HOSTNAME=§", "hostname: §", "MASTER_ADDR=§", "SLURMD_NODENAME=§",
          "jdoe@§:~$ ls", "root@§:/# ls", "tcp://§:29500", "ssh jdoe@§", "rank 3 failed to connect to §:29500",
          "Linux § 5.15.0-91-generic #101-Ubuntu SMP", "§:1234:1250 [0] NCCL INFO Bootstrap", "host=§",
          "Nov 20 10:00:00 § kernel: NVRM: Xid", "--master_addr §", "dial tcp: lookup § on 10.0.0.2:53",
          "Could not resolve host: §", "http://§:8000/v1", "§:/export/x on /mnt", "SLURM_NODELIST=§",
          "\\\\§\\share\\x", "Host: §"),
    value("a full name of a host", "quux17.hpc.acme-lab.edu", "§", "rank 3 on §", "https://§/simple", "§:29500",
          "index-url = https://§/pypi", "jdoe@§:~$", "/net/§/x", '{"x": "§"}', "MASTER_ADDR=§"),
    value("a local name of a host", "quux-17.acme.internal", "§", "see §.", "https://§/simple"),
    value("a cloud machine", "i-0f1e2d3c4b5a69788", "instance § stopped", "§"),
    value("a cloud host", "ip-10-0-3-17", "§.ec2.internal", "on §"),
    value("a cloud account", "123456789012:user/quuxley", "arn:aws:iam::§"),
    value("an e-mail", "quux.ley+x@acme-lab.com", "§", "by <§>", "mailto:§", "Author: X <§>"),
    value("an e-mail in an address", "quux.ley%40acme-lab.com", "https://x.acme-lab.com/u/§"),
    value("IPv4", "10.11.12.13", "tcp://§:29500", "MASTER_ADDR=§", "connect to § failed", "[§]:29500", "§/24"),
    value("IPv4 alone", "192.168.77.66", "§", "x=§", "/proc/§/x"),
    value("IPv6", "2001:db8:77::66", "§", "inet6 §/64", "[§]:29500"),
    value("IPv6, local", "fe80::1ff:fe23:4567:890a", "§", "via § dev eth0"),
    value("MAC", "0a:1b:2c:3d:4e:5f", "§", "link/ether § brd"),
    value("MAC of Windows", "0A-1B-2C-3D-4E-5F", "§", "Physical Address: §"),
    value("a serial number", "1652923034921", "Serial Number : §", "serial=§", "S/N: §", "board_serial: §"),
    value("a service tag", "7ABCD12", "Service Tag: §"),
    value("PCI", "0000:3b:00.0", "§", "/sys/bus/pci/devices/§/numa_node", "NVRM: Xid (PCI:§): 79"),
    value("PCI, long", "00000000:3B:00.0", "§", "GPU § is lost"),
    value("PCI, short", "3b:00.0", "3b:00.0 3D controller: NVIDIA Corporation", "bus id: 3b:00.0"),
    value("GPU, shortened", "5a1c0ffe", "CUDA_VISIBLE_DEVICES=GPU-§"),
    value("a UUID", GPU, "boot id §", "UUID=§"),
    value("machine-id", HEX32, "machine-id: §", "$ cat /etc/machine-id\n§", "machine_id=§"),
]  # fmt: skip
PLANTS = [*TOKENS, *VALUES, *IDENTITIES]


# --- a report of nothing but secrets ----------------------------------------------------------------------------------


def filled(hint: Any, text: str) -> Any:
    """A value of this type whose every text is this one."""
    hint, _ = split_optional(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        make = typing.cast("Any", hint)
        return make(**{f.name: filled(hints[f.name], text) for f in dataclasses.fields(hint)})
    if origin is tuple:
        return (filled(args[0], text),)
    if origin is dict:
        return {text: filled(args[1], text)}
    if origin is typing.Literal:
        return args[0]
    return {str: text, bool: True, int: 3, float: 1.5}[hint]


@lru_cache(maxsize=1)
def facts_types() -> dict[str, type[Facts]]:
    return api.knowledge().facts_types


def planted(text: str) -> Report:
    """A report in which every text of every record is this one, and all that was said about them."""
    facts = {key: filled(kind, text) for key, kind in facts_types().items()}
    report = read_report(api.knowledge(), facts, "facts")
    finding = dataclasses.replace(
        HEALTHY.findings[0], title=text, about=text, evidence=(Evidence(text, text),), actions=(Action(text, text),)
    )
    run = ProbeRecord("exit", text, text, interpreter=text)
    return dataclasses.replace(
        report,
        captions=(*report.captions, text),
        verdict=dataclasses.replace(report.verdict, headline=text),
        use=(*report.use, dataclasses.replace(HEALTHY.use[0], label=text, how=text)),
        findings=(finding, *report.findings),
        outcomes=(*report.outcomes, OutcomeRecord("XX001", "unknown", text)),
        exhibits=(*report.exhibits, dataclasses.replace(HEALTHY.exhibits[0], title=text)),
        probes={**dict.fromkeys(report.probes, run), text: run},
    )


def texts_of(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in (*value, *value.values()) for text in texts_of(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item)]
    return [value] if isinstance(value, str) else []


def everything(report: Report) -> dict[str, str]:
    """All that leaves the machine."""
    difference = api.diff(HEALTHY, report)
    return {
        "json": "\n".join(texts_of(json.loads(report.to_json()))),
        "facts": api.facts_to_json(report),
        "markdown": report.to_markdown(),
        "text": report.to_text(verbose=True),
        **({"html": report.to_html()} if has_charts() else {}),
        "difference": api.difference_to_json(difference),
        "difference, readable": api.difference_to_markdown(difference),
    }


def leaks(plant: Plant, written: dict[str, str]) -> list[tuple[str, str]]:
    flat = {name: re.sub(r"\s+", " ", text).lower() for name, text in written.items()}
    return [(name, word) for name, text in flat.items() for word in plant.gone if word.lower() in text]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_what_is_planted_everywhere_leaves_nowhere(plant: Plant) -> None:
    for text in plant.texts:
        written = "\n".join(texts_of(json.loads(planted(text).to_json())))
        assert not leaks(plant, {"json": written}), text


@pytest.mark.parametrize("plant", PLANTS[::6], ids=lambda plant: plant.name)
def test_no_output_tells_it(plant: Plant) -> None:
    """What is drawn is the redacted document, and nothing beside it: one of six is enough."""
    assert not leaks(plant, everything(planted(plant.texts[0])))


def test_every_text_of_every_record_is_planted() -> None:
    records = {key: to_plain(filled(kind, "planted")) for key, kind in facts_types().items()}
    assert len([text for text in texts_of(records) if text == "planted"]) > 200
    assert planted("planted").facts == records


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_two_mentions_are_one_placeholder(plant: Plant) -> None:
    for text in plant.texts:
        first, second = (redact({"a": text, "b": {"c": [text]}}, NOBODY)[name] for name in ("a", "b"))
        assert first == second["c"][0] != text
        assert redact({"a": first}, NOBODY) == {"a": first}
