"""Which texts are passwords, keys and tokens by their form alone?"""

from __future__ import annotations

import base64
import binascii
import re

from fp8doctor.reporting.forms import form, multiplies_matrices

# Names of settings whose value is a secret. "tokens" counts words of a language model, and is none.
_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:token|password|passwd|passphrase|secret|credentials?|auth|cookie"
    r"|(?:api|access|secret|private|account|signing|encryption|client)_?key)$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,60}_(?:KEY|PASS|KEY_BASE)")
# Names of what is no secret: the vocabulary of a tokenizer (its attributes in transformers), keys of tables and
# passes of compilers.
_NO_SECRET_NAME = re.compile(
    r"(?:(?:^|[^A-Za-z0-9])(?:pad|eos|bos|unk|sep|cls|mask|image|img|video|audio|vision|eot|eom|eod|boi|eoi|fim|prefix"
    r"|suffix|middle|start|end|begin|stop|special|fake|next|prev|first|last|per|think|tool|call|error|invalid"
    r"|unexpected)[_-]token"
    r"|(?:^|[^A-Za-z0-9])(?:cache|primary|foreign|public|sort|partition|registry|dispatch|lookup|map|dict|hash)_key"
    r"|(?:^|[^A-Za-z0-9])(?:forward|backward|fwd|bwd|first|second|last|single|multi|two|compiler?|fusion|graph)_pass)$",
    re.IGNORECASE,
)
# What stands between a name and its value, with the quoting of JSON inside of JSON and of addresses.
_ASSIGNED = r"\\?[\"']?\s{0,3}(?:[=:]|%3D)\s{0,3}\\?[\"']?"
# The same before a value in quotes, which may be one of a list; those before it were replaced already.
_QUOTED = (
    r"\\?[\"']?\s{0,3}[=:]\s{0,3}(?:[\[(]\s{0,3}(?:\\?[\"'](?:<token-\d{1,6}>|None)\\?[\"'],\s{0,3}){0,5})?"
    r"\\?(?P<quote>[\"'])"
)
# Keys of version control and of builds: long hexadecimal there is no secret.
_HASH_NAMES = re.compile(
    r"(?:commit|git|sha\d*|hash|digest|revision|rev|version|build|checksum|md5)\w{0,20}$", re.IGNORECASE
)
_NO_VALUE = re.compile(
    r"(?:none|null|true|false|unset|yes|no|\*+|[\d.,]+|<.*|\[.*"
    r"|undefined|required|optional|missing|available|configured|provided|redacted)$",
    re.IGNORECASE,
)


def names_a_secret(name: str) -> bool:
    """Whether the value of a field or a setting of this name is a secret."""
    return bool(_SECRET_NAME.search(name) or _SECRET_VARIABLE.fullmatch(name)) and not _NO_SECRET_NAME.search(name)


def _is_named_secret(match: re.Match[str]) -> bool:
    """A value, and not that of a name like "pad_token", of which the group may hold the end."""
    begin, end = match.start("name"), match.end("name")
    return _is_password(match) and not _NO_SECRET_NAME.search(match.string[max(0, begin - 24) : end])


def _is_password(match: re.Match[str]) -> bool:
    return not _NO_VALUE.match(match["thing"])


def _is_token(match: re.Match[str]) -> bool:
    """Letters and digits, or what a header of basic authentication holds."""
    thing = match["thing"]
    if _NO_VALUE.match(thing):
        return False
    return (any(c.isdigit() for c in thing) and any(c.isalpha() for c in thing)) or _is_user_and_password(thing)


def _is_user_and_password(thing: str) -> bool:
    """Whether this is "user:password" in base64."""
    try:
        return b":" in base64.b64decode(thing, validate=True)
    except (binascii.Error, ValueError):
        return False


def _is_bot(match: re.Match[str]) -> bool:
    """Whether it begins with a number in base64, as the tokens of Discord's bots do with that of the bot."""
    number = match["thing"].split(".")[0]
    try:
        return base64.b64decode(number + "=" * (-len(number) % 4), validate=True).isdigit()
    except (binascii.Error, ValueError):
        return False


def _is_login_of_address(match: re.Match[str]) -> bool:
    """The "user:password" before "@host", and no "lambda x:a@b.T"."""
    return not multiplies_matrices(match.string, match.end("thing"))


def _is_mixed(match: re.Match[str]) -> bool:
    """Letters of both cases and digits, as base64 and keys have; or hexadecimal that is no hash."""
    thing = match["thing"]
    if _HASH_NAMES.search(match["name"]):
        return False
    return bool(re.fullmatch(r"[0-9a-fA-F]+", thing)) or (
        thing != thing.lower() and thing != thing.upper() and any(c.isdigit() for c in thing) and thing.count("/") < 3
    )


def _is_login(match: re.Match[str]) -> bool:
    """A user and a password, not the numbers that `docker run --user` takes."""
    return any(c.isalpha() for c in match["thing"]) and "$" not in match["thing"]


_B = r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-F]{2}))"  # where a word begins; an underscore or "%3D" may stand before
# By the prefixes that the services publish. Sources: the patterns of GitHub's secret scanning and of gitleaks.
_PREFIXED = {
    "hf_": r"[A-Za-z0-9]{16,64}",  # Hugging Face
    "api_org_": r"[A-Za-z0-9]{16,64}",
    **dict.fromkeys(("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"[A-Za-z0-9]{16,255}"),
    "github_pat_": r"[A-Za-z0-9_]{20,255}",
    **dict.fromkeys(
        ("glpat-", "gldt-", "glrt-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-", "gloas-", "glsoat-"),
        r"[\w.-]{16,255}",
    ),
    "sk-": r"[A-Za-z0-9_-]{20,250}",  # OpenAI, Anthropic, OpenRouter and others
    **dict.fromkeys(("sk_live_", "sk_test_", "rk_live_", "pk_live_", "whsec_"), r"[A-Za-z0-9]{16,255}"),  # Stripe
    **dict.fromkeys(("AKIA", "ASIA", "ABIA", "ACCA", "AROA", "AIDA"), r"[0-9A-Z]{16}"),  # AWS
    **dict.fromkeys(("IQoJb3JpZ2lu", "FwoGZXIvYXdz", "FQoGZXIvYXdz"), r"[A-Za-z0-9+/=]{16,4000}"),
    **dict.fromkeys((f"xox{letter}-" for letter in "abeoprs"), r"[\w.-]{10,250}"),  # Slack
    "xapp-": r"[\w-]{10,250}",
    "AIza": r"[\w-]{35}",  # Google
    "ya29.": r"[\w-]{20,1000}",
    "GOCSPX-": r"[\w-]{20,64}",
    "nvapi-": r"[\w-]{20,128}",  # NVIDIA NGC
    "npm_": r"[A-Za-z0-9]{36}",
    "pypi-": r"[\w-]{32,255}",
    **dict.fromkeys(("dckr_pat_", "dckr_oat_"), r"[\w-]{20,64}"),
    "wandb_v1_": r"[\w-]{20,255}",
    "gsk_": r"[A-Za-z0-9]{20,64}",  # Groq
    "xai-": r"[A-Za-z0-9]{40,100}",
    "pplx-": r"[A-Za-z0-9]{32,64}",
    "fw_": r"[A-Za-z0-9]{20,40}",  # Fireworks
    "r8_": r"[A-Za-z0-9]{30,45}",  # Replicate
    "rpa_": r"[A-Za-z0-9]{30,64}",  # RunPod
    "tgp_v1_": r"[\w-]{30,64}",  # Together
    "lsv2_": r"[A-Za-z0-9_]{30,64}",  # LangSmith
    **dict.fromkeys(("hvs.", "hvb."), r"[\w-]{20,300}"),  # Vault
    "dapi": r"[0-9a-f]{32}",  # Databricks
    "dop_v1_": r"[0-9a-f]{40,64}",  # DigitalOcean
    "SG.": r"[\w-]{16,32}\.[\w-]{16,64}",  # SendGrid
    **dict.fromkeys(("shpat_", "shpss_"), r"[0-9a-fA-F]{32}"),
    "ATATT3": r"[\w=-]{20,300}",  # Atlassian
    "tskey-": r"[\w-]{16,100}",  # Tailscale
    **dict.fromkeys(("glsa_", "glc_"), r"[\w=+/]{20,400}"),  # Grafana
    "lin_api_": r"[A-Za-z0-9]{32,64}",
    "ntn_": r"[A-Za-z0-9]{40,64}",  # Notion
    "sntrys_": r"[\w=+/]{20,400}",
    "AGE-SECRET-KEY-1": r"[0-9A-Z]{50,64}",
    "LS0tLS1CRUdJTi": r"[A-Za-z0-9+/=]{20,20000}",  # "-----BEGIN" in base64, as Kubernetes writes keys
    "eyJ": r"[\w-]{8,2000}\.(?:eyJ)?[\w-]{4,4000}(?:\.[\w-]{0,4000}){0,3}",  # JWT and JWE
}
_PREFIXES = tuple(prefix.lower() for prefix in _PREFIXED)
_ANY_PREFIXED = "|".join(f"{re.escape(prefix)}{rest}" for prefix, rest in _PREFIXED.items())
_SECRET_WORDS = (
    r"(?:token|secret|credentials?|(?:api|access|secret|private|account|signing|encryption|client|shared)[_-]?key"
    r"(?:[_-]?(?:id|data))?|auth)"
)
_SECRET_TRIGGERS = ("token", "secret", "credential", "key", "auth")
_PASSWORDS = ("password", "passwd", "passphrase")
_PEM_BODY = r"(?:[^-<>]|-(?!-)){0,20000}"

FORMS = (
    form(
        "token",
        rf"(?P<thing>-----BEGIN [A-Z ]{{0,40}}PRIVATE KEY(?: BLOCK)?-----(?:{_PEM_BODY}-----END [A-Z ]{{0,40}}"
        r"PRIVATE KEY(?: BLOCK)?-----|[\sA-Za-z0-9+/=\\]{0,20000}))",
        "private key",
    ),
    form("token", r"Private-Lines: \d{1,3}(?P<thing>(?:\s{1,2}[A-Za-z0-9+/=]{4,70}){1,99})", "private-lines"),
    form("token", r"://(?!git@)(?P<thing>[^/\s\"'<>]{1,256})(?=@)", "://"),
    form("token", r"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<thing>[\w/-]{8,255})", "hooks.slack"),
    form("token", r"/api/webhooks/(?P<thing>[\w/-]{16,255})", "/api/webhooks/"),
    form("token", r"(?<![\w])(?P<thing>\d{8,10}:AA[\w-]{33})(?![\w-])", ":aa"),  # Telegram
    # A secret key of AWS beside its id; alone it looks like any base64.
    form(
        "token",
        r"(?<![A-Za-z0-9])A[A-Z]IA[0-9A-Z]{16}[^\w/+\n]{1,8}(?P<thing>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        *("akia", "asia"),
    ),
    form(
        "token",
        rf"{_B}(?P<thing>{_ANY_PREFIXED})(?![A-Za-z0-9])",
        *_PREFIXES,
        accept=lambda match: any(c.isdigit() for c in match["thing"]),
    ),
    # Hashed passwords, as /etc/shadow and .htpasswd have them.
    form("token", r"(?P<thing>\$(?:1|2[aby]|5|6|y|apr1|argon2[a-z]{1,2})\$[./A-Za-z0-9$=,+]{8,200})", "$"),
    form(
        "token",
        rf"authorization{_ASSIGNED}(?:(?:Bearer|Basic|Token|Digest|ApiKey)\s{{1,3}})?"
        r"(?!(?:Bearer|Basic|Token|Digest|ApiKey)\s)(?P<thing>[^\s\"'<>\\]{4,4000})",
        "authorization",
        accept=_is_password,
        flags=re.I,
    ),
    form(
        "token", r"\b(?:Bearer|Basic)\s{1,3}(?P<thing>[A-Za-z0-9._~+/=-]{8,4000})", "bearer", "basic",
        accept=_is_token, flags=re.I,
    ),
    form("token", r"\bcookie:\s{0,3}(?P<thing>[^\s<>][^\n<>]{3,4000})", "cookie:", flags=re.I),
    form(
        "token",
        r"(?<=[?&])(?:[\w-]{0,40}?(?:token|key|sig|signature|credential|secret|auth|code|password))="
        r"(?P<thing>[^&\s\"'<>]{4,4000})",
        "?",
        "&",
        flags=re.I,
    ),
    # An argument as Python prints it: Namespace(api_key=['...'], hf_token='...').
    form(
        "token",
        rf"(?P<name>(?:api|access|secret|private)[_-]?key|(?:[_-]|access|auth|refresh)token|[_-]secret"
        rf"|password|passwd|passphrase){_QUOTED}"
        r"(?P<thing>(?:(?!(?P=quote))[^\\\n]){1,2048})",
        *("key", "token", "secret", *_PASSWORDS),
        accept=_is_named_secret,
        flags=re.I,
    ),
    form(
        "token", rf"(?:password|passwd|passphrase){_ASSIGNED}(?P<thing>[^\s\"'&,;<>\\]{{1,256}})", *_PASSWORDS,
        accept=_is_password, flags=re.I,
    ),
    form("token", r"(?<=;)\s?pwd=(?P<thing>[^\s\"';<>]{1,256})", "pwd=", flags=re.I),  # ODBC
    form(
        "token",
        rf"(?P<name>{_SECRET_WORDS}){_ASSIGNED}(?P<thing>[A-Za-z0-9_\-.+/=~%!$#*]{{8,2048}})(?![(\[])",
        *_SECRET_TRIGGERS,
        accept=lambda match: _is_token(match) and _is_named_secret(match),
        flags=re.I,
    ),
    # A variable so called holds a secret, whatever it looks like; after ":" where nothing more is said.
    form(
        "token",
        r"(?<![A-Za-z0-9])(?P<name>[A-Z][A-Z0-9_]{0,60}(?:TOKEN|SECRET|API_KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY"
        r"|KEY_BASE|CREDENTIALS?|_PASS))=[\"']?(?P<thing>[^\s\"'&,;<>]{3,2048})",
        *("token=", "secret=", "key=", "base=", "credential=", "credentials=", "_pass="),
        accept=_is_named_secret,
    ),
    form(
        "token",
        r"(?<![A-Za-z0-9])(?P<name>[A-Z][A-Z0-9_]{0,60}_(?:TOKEN|SECRET|KEY|PASS|PASSWORD))\\?[\"']?"
        r"(?:=|:\s{0,3})\\?[\"']?"
        r"(?P<thing>[^\s\"'&,;:=<>()\[\]{}\\/~]"
        r"[^\s\"'&,;:=<>()\[\]{}\\]{7,511}={0,2})(?=\\?[\"']|\s{0,8}(?:[\n,;)\]}]|\Z))",
        *("_token", "_secret", "_key", "_pass"),
        accept=_is_named_secret,
    ),
    # kaggle.json
    form(
        "token",
        r"\busername\\?\"\s{0,3}:[^\n{}]{1,128}?\bkey\\?\"\s{0,3}:\s{0,3}\\?\"(?P<thing>[0-9a-f]{32,64})\b",
        "username",
    ),
    form(
        "token",
        r"\b(?:vastai set api-key|ngrok (?:config )?(?:add-)?authtoken|runpodctl config --api[Kk]ey)\s{1,3}"
        r"(?P<thing>[^\s\"'<>-][^\s\"'<>]{2,512})",
        *("vastai", "ngrok", "runpodctl"),
    ),
    form(
        "token",
        r"\b(?:echo|printf)\s{1,3}(?:-n\s{1,3})?[\"']?(?P<thing>[^\s\"'<>$|-][^\s\"'<>|]{0,256})[\"']?\s{0,3}\|"
        r"[^\n|]{0,120}?(?:--password-stdin|\bsudo\s{1,3}-S)\b",
        *("--password-stdin", "sudo"),
    ),
    form(
        "token", r"(?<![\w.-])(?P<thing>[MNO][A-Za-z0-9]{22,27}\.[\w-]{6}\.[\w-]{27,40})(?![\w-])", ".",
        accept=_is_bot, least=2,
    ),  # Discord
    form(
        "token",
        r"(?<![\w-])--?(?P<name>(?:[a-z]{1,16}[-_]){0,3}(?:token|secret|password|passwd|passphrase"
        r"|(?:api|access|secret|private)[-_]?key))(?:=|\s{1,3})[\"']?(?P<thing>[^\s\"'<>-][^\s\"'<>]{2,512})",
        *("token", "secret", "key", *_PASSWORDS),
        accept=_is_named_secret,
    ),
    form("token", r"\bsshpass\s{1,3}-p\s{0,3}[\"']?(?P<thing>[^\s\"'<>]{1,256})", "sshpass"),
    form("token", r"\bdocker login\b[^\n]{0,120}?\s-p\s{1,3}[\"']?(?P<thing>[^\s\"'<>]{1,256})", "docker login"),
    form("token", r"\bmysql(?:dump)?\b[^\n]{0,120}?\s-p(?P<thing>[^\s\"'<>-][^\s\"'<>]{1,256})", "mysql"),
    form("token", r"\bwandb login\s{1,3}(?P<thing>[0-9a-f]{40,64})\b", "wandb login"),
    form(
        "token", r"(?<![\w-])(?:-u|--user|--proxy-user)[ =][\"']?(?P<thing>[^\s:\"'<>/]{1,64}:[^\s\"'<>/]{1,256})",
        *("-u ", "-u=", "-user"), accept=_is_login,
    ),
    # .netrc
    form(
        "token", r"\b(?:login|account)\s{1,8}\S{1,64}\s{1,8}(?:password|passwd)\s{1,8}(?P<thing>[^\s<>]{1,256})",
        *("password", "passwd"),
    ),
    form("token", r"(?<![\w/.<>-])(?P<thing>[\w.+-]{1,64}:[^\s@/:\"'<>]{3,128})(?=@[A-Za-z<])", "@",
         accept=_is_login_of_address),
    form(
        "token",
        r"(?<![\w.-])(?P<name>[A-Za-z_][\w.-]{0,63})=[\"']?"
        r"(?P<thing>[0-9a-fA-F]{32,512}|[A-Za-z0-9+/]{40,1024}={0,2})(?![\w+/=.-])",
        "=",
        accept=_is_mixed,
    ),
    # The key of "ssh-ed25519 AAAA... user@host" names its owner, who is in every place that it opens.
    form("ssh-key", r"(?P<thing>(?<![A-Za-z0-9+/])AAAA[BCE][A-Za-z0-9+/]{24,4000}={0,2})", "aaaa"),
    form("token", r"\bSHA256:(?P<thing>[A-Za-z0-9+/]{43})(?![\w+/])", "sha256:"),
)  # fmt: skip
