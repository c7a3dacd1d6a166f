"""Which texts tell by their form alone who or where: users, homes, hosts, addresses, devices?"""

from __future__ import annotations

import re

from fp8doctor.reporting.forms import COUNTRIES, DOMAINS, LOCAL_DOMAINS, UUID, form, multiplies_matrices

# "GPU-<uuid>", "MIG-<uuid>", the older "MIG-GPU-<uuid>/1/0", and the abbreviated form that CUDA_VISIBLE_DEVICES takes.
GPU_UUID = rf"(?<![A-Za-z0-9])(?P<thing>(?:MIG-)?(?:GPU|MIG)-(?:{UUID}|[0-9a-f]{{8,32}}(?![0-9A-Za-z-])))"
# Accounts that many machines have: they name nobody.
SHARED_ACCOUNTS = frozenset(
    (
        *("root", "ubuntu", "debian", "ec2-user", "opc", "azureuser", "runner", "jovyan", "nobody", "user", "admin"),
        *("docker", "git", "nogroup", "users", "wheel", "sudo", "video", "render", "daemon", "vscode"),
    )
)
# Words that a report needs: someone or something called so is replaced only where it is sure that the name is meant.
_ORDINARY_WORDS = """
    root user users admin administrator ubuntu debian fedora centos ec2-user opc azureuser runner docker container
    jovyan nobody guest test tester dev developer build builder ci work worker workspace app apps data home local
    localhost shared scratch public service system default main master node server client host box machine cluster
    login compute gpu gpus cuda nvidia amd rocm intel h100 h200 a100 b200 torch pytorch triton tensor tensors float
    float8 python python3 conda miniconda venv linux windows macos lib lib64 bin etc usr var opt tmp proc dev sys
    site-packages dist-packages cache model models kernel kernels linear attention training train bench benchmark
    run runs time fast slow true false none null error warning info ready broken unknown envs vllm sglang
    torchao transformers diffusers flash_attn bfloat16 float16 device cpu nccl cudnn cublas
"""
ORDINARY = frozenset(_ORDINARY_WORDS.split())
# Sites that everybody knows: an address there tells where to read, not where this is.
# RFC 2606 keeps the examples free.
_PUBLIC_SITES_TEXT = """
    github.com github.io githubusercontent.com gitlab.com nvidia.com nvidia.cn nvcr.io pytorch.org python.org pypi.org
    pythonhosted.org huggingface.co hf.co arxiv.org amd.com intel.com google.com googlesource.com readthedocs.io
    readthedocs.org docker.com docker.io ghcr.io quay.io anaconda.org anaconda.com conda.io apache.org vllm.ai
    sglang.ai lightning.ai deepspeed.ai openai.com microsoft.com stackoverflow.com kernel.org ubuntu.com debian.org
    json-schema.org wikipedia.org slack.com dao-ailab.com tinyurl.com aka.ms discord.com npmjs.org nodejs.org w3.org
    example.com example.org example.net cmake.org gnu.org llvm.org triton-lang.org numpy.org scipy.org jupyter.org
"""
_PUBLIC_SITES = frozenset(_PUBLIC_SITES_TEXT.split())
# Words that announce an address; "from" and "to" announce versions just as often.
_ADDRESS_WORDS_TEXT = """
    host hosts hostname addr address ip ipv4 inet server peer endpoint node nameserver gateway master rank0 rank
    on connect connecting connected connection master_addr bind tcp http https url remote local client
"""
_ADDRESS_WORDS = frozenset(_ADDRESS_WORDS_TEXT.split())
_PORT_OR_SIZE = re.compile(r"\]?:\d{2,5}(?![\d.])|/(?:[89]|[12]\d|3[0-2])(?![\d./])")
_GLOBAL_OR_LOCAL_IPV6 = re.compile(r"(?:[23][0-9a-f]{3}|fe[89ab][0-9a-f]|f[cd][0-9a-f]{2}):", re.IGNORECASE)
# Addresses that are the same on every machine.
_UNTELLING = ("127.", "0.0.0.0", "255.255.255.", "8.8.8.8", "1.1.1.1")
# What stands behind "@" and is no host: versions of symbols, of packages and of images.
_NO_HOST = re.compile(r"(?:GLIBC|GCC_|CXXABI|latest|main|master|nightly|stable|sha256|triton|torch)", re.IGNORECASE)


def _is_ipv4(match: re.Match[str]) -> bool:
    """An address, and not one of the four-part versions (cuDNN 9.19.0.56, cuBLAS 12.8.4.1) that look the same.

    Private ranges that no version has, and first parts that no version reaches, are addresses by themselves; the rest
    needs a port, a network size or a word that announces one.
    """
    thing = match["thing"]
    parts = [int(part) for part in thing.split(".")]
    if max(parts) > 255 or thing.startswith(_UNTELLING):
        return False
    start, end = match.span()
    after = match.string[end : end + 7]
    if after[:1] in (":", "]", "/") and _PORT_OR_SIZE.match(after):
        return True
    before = match.string[max(0, start - 24) : start]
    if before.endswith(("==", ">=", "<=", "~=", "!=", "-", "_", "+", "v", "V")):
        return False
    words = before.lower().replace("://", " ").rstrip(" =:\"'[(").split()
    last = re.split(r"[=@:]", words[-1])[-1] if words else ""
    if last in ("version", "versions"):
        return False
    announced = before.endswith(("://", "@")) or last in _ADDRESS_WORDS or words[-2:-1] == ["connect"]
    return parts[0] >= 64 or announced


def _is_ipv6(match: re.Match[str]) -> bool:
    """An address that identifies: not "::1", and not the C++ scopes ("c10::") that look like one."""
    thing = match["thing"]
    if thing.count(":") < 2 or not _GLOBAL_OR_LOCAL_IPV6.match(thing):
        return False
    import ipaddress  # here, because few texts come this far

    try:
        ipaddress.IPv6Address(thing)
    except ValueError:
        return False
    return True


def is_somebody(name: str) -> bool:
    """Whether a word may be the name of a person's account or of a machine."""
    return name.lower() not in SHARED_ACCOUNTS | ORDINARY and any(c.isalpha() for c in name)


def _is_user(match: re.Match[str]) -> bool:
    return is_somebody(match["thing"])


def _is_host(match: re.Match[str]) -> bool:
    """A name of a machine that is not everybody's: no public site, no word, no version of a symbol."""
    host = match["thing"].lower().rstrip(".")
    if not is_somebody(host) or host.startswith("localhost"):
        return False
    labels = host.split(".")
    return not any(".".join(labels[place:]) in _PUBLIC_SITES for place in range(len(labels)))


def _is_user_at(match: re.Match[str]) -> bool:
    """The user of "user@host", and no factor of a product of matrices."""
    at = match.end("thing")
    return _is_user(match) and not _NO_HOST.match(match["host"]) and not multiplies_matrices(match.string, at)


def _is_host_at(match: re.Match[str]) -> bool:
    """The host of "user@host", and no factor of a product of matrices."""
    at = match.start("thing") - 1
    return _is_host(match) and not _NO_HOST.match(match["thing"]) and not multiplies_matrices(match.string, at)


def _is_email(match: re.Match[str]) -> bool:
    """An address, and not how git signs in or how Python multiplies matrices."""
    thing = match["thing"]
    at = match.start("thing") + thing.find("@")
    return not thing.startswith("git@") and not ("@" in thing and multiplies_matrices(match.string, at))


def _is_numbered_host(match: re.Match[str]) -> bool:
    """Where words stand as well as hosts: only what is called as machines are ("node17", "gpu-a.example.org")."""
    return bool(re.search(r"\d|-|\.", match["thing"])) and _is_host(match)


def _is_domain(match: re.Match[str]) -> bool:
    """A full name of a host, and no dotted path to a layer or an attribute ("blocks.0.ff.net", "threading.local")."""
    labels = match["thing"].split(".")
    if any(label.isdigit() for label in labels) or not _is_host(match):
        return False
    return labels[-1] != "net" or any("-" in label for label in labels)


# One part of a folder's or an account's name; a person's may have two words where it is sure where it ends.
_PART = r"[^\\/\s\"'`:;,<>|)\]}%]{1,64}"
_ACCOUNT = r"(?P<thing>[A-Za-z_][\w.-]{0,63})(?![\w(\[/.])"
_LABEL = r"[A-Za-z0-9][A-Za-z0-9-]{0,62}"
_HOST = rf"(?P<thing>[A-Za-z][A-Za-z0-9-]{{0,62}}(?:\.{_LABEL}){{0,8}})"
_ASSIGNED = r"\\?[\"']?\s{0,3}[=:]\s{0,3}\\?[\"']?"
HOMES = (
    form(
        "home",
        rf"(?P<thing>[A-Za-z]:\\{{1,4}}(?:Users|Documents and Settings)\\{{1,4}}"
        rf"(?P<user>{_PART}(?: {_PART}){{1,4}}(?=\\)|{_PART}))",
        *("\\users\\", "\\documents and settings\\"),
    ),
    form(
        "home",
        rf"(?P<thing>/(?:home2?|homes|Users)/(?P<user>{_PART}(?:(?: [A-Z][\w.-]{{0,32}}){{1,3}}(?=/)"
        rf"|(?:\\{{1,4}} [\w.-]{{1,32}}){{1,3}}|(?:%20[\w.-]{{1,32}}){{1,3}})?))",
        *("/home", "/users/"),
    ),
    form("home", rf"(?P<thing>\\{{1,4}}home\\{{1,4}}(?P<user>{_PART}))", "\\home\\"),
    form("home", r"(?P<thing>%2F(?:home|Users)%2F(?P<user>[\w.-]{1,64}))", "%2fhome%2f", "%2fusers%2f"),
    form("home", r"(?P<thing>(?<![\w.~/>-])/root(?![\w.-]))", "/root"),
)

USERS = (
    form(
        "user",
        rf"(?<![\w-])(?:(?:[A-Z]{{1,16}}_){{0,3}}(?:USER|USERNAME|USER_NAME|LOGNAME)|user(?:_?name)?)"
        rf"{_ASSIGNED}{_ACCOUNT}",
        *("user", "logname"),
        accept=_is_user,
    ),
    form("user", rf"\b(?:[ef]?[ug]id|groups)=\d{{1,10}}\({_ACCOUNT}", "id=", "groups=", accept=_is_user),
    form("user", rf"(?<![A-Za-z])sudo(?:\[\d{{1,8}}\])?:\s{{1,8}}{_ACCOUNT}(?= :)", "sudo", accept=_is_user),
    form("user", rf"\b(?:sudo\s{{1,3}}-u|su\s{{1,3}}-l?|ssh\s{{1,3}}-l)\s{{1,3}}{_ACCOUNT}", "su", "ssh",
         accept=_is_user),
    form("user", rf"\buser(?:name)? \\?[\"']{_ACCOUNT}", "user", accept=_is_user),
    # Lines of .netrc, of /etc/passwd (with a person's name in it) and of "ls -l".
    form("user", r"\blogin\s{1,8}(?P<thing>[A-Za-z_][\w.@-]{0,63})\s{1,8}(?:password|account)\b", "login",
         accept=_is_user),
    form("user", rf"(?m:^){_ACCOUNT}(?=:[x*!]:\d{{1,10}}:\d{{1,10}}:)", ":x:", ":*:", ":!:", accept=_is_user),
    form("user", r":[x*!]:\d{1,10}:\d{1,10}:(?P<thing>[^:\n<>]{1,128}):", ":x:", ":*:", ":!:"),
    form("user", rf"(?<!\S)[-dlbcps][-rwxsStT]{{9}}[.+@]?\s{{1,3}}\d{{1,6}}\s{{1,3}}{_ACCOUNT}", "rwx", "rw-", "r--",
         accept=_is_user),
    form("user", r"(?<![\w/~.<>-])~(?P<thing>[A-Za-z_][\w-]{0,31})(?=/)", "~", accept=_is_user),
    # Folders in which people have one of their own name; not learned, as projects have some there, too.
    form(
        "user",
        r"(?:/scratch/(?:users?/)?|/users?/|/u/|/(?:lustre|gpfs|fsx|nfs|work|data|projects?)/(?:home|users?|scratch)/"
        r"|/(?:run/)?media/|/var/(?:spool/)?mail/|/torchinductor_|/var/spool/cron/(?:crontabs/)?)"
        r"(?P<thing>[A-Za-z_][\w.-]{0,63})(?![\w.-])",
        *("/scratch/", "/user", "/u/", "/home/", "/media/", "/mail/", "/torchinductor_", "/cron/"),
        accept=_is_user,
        learn=False,
    ),
    # "user@host" of a prompt, of ssh, of the comment of a key.
    form(
        "user", r"(?<![\w.@/+-])(?P<thing>[A-Za-z_][\w.-]{1,63})@(?=(?P<host>[A-Za-z<][\w.-]{2,252})(?![\w(.]))", "@",
        accept=_is_user_at,
    ),
)  # fmt: skip

HOSTS = (
    form(
        "host",
        r"(?<![A-Za-z0-9.-])(?P<thing>ip-\d{1,3}-\d{1,3}-\d{1,3}-\d{1,3}(?:\.[a-z0-9-]{1,63}){0,6})(?![\d-])",
        "ip-",
    ),
    form("host", rf"(?<![\w./@+-])(?:[A-Za-z_][\w.-]{{0,63}}|<[a-z]{{1,16}}(?:-\d{{1,6}})?>)@(?=[\w.-]{{3}}){_HOST}"
         r"(?![\w(@-]|\.\w)", "@", accept=_is_host_at),
    form("host", rf"(?<![\w\\:])\\\\(?:\\\\)?{_HOST}(?=\\{{1,2}}[\w$.-])", "\\\\", accept=_is_host),
    form("host", rf"(?<!file)://(?:[^/\s@\"'<>]{{1,256}}@|<[a-z]{{1,16}}(?:-\d{{1,6}})?>@)?{_HOST}(?![\w-])", "://",
         accept=_is_host),
    form(
        "host",
        rf"(?<![\w-])(?:(?:[A-Z]{{1,16}}_){{0,3}}(?:HOST|HOSTNAME|NODENAME|NODE_NAME|MASTER_ADDR|COMPUTERNAME)"
        rf"|hostname|host_name|nodename|master_addr){_ASSIGNED}{_HOST}(?![\w(])",
        *("host", "node", "master_addr", "computername"),
        accept=_is_host,
    ),
    form("host", r"\b(?:(?:[A-Z]{1,16}_){0,3}NODELIST|nodelist)=(?P<thing>[A-Za-z][\w\[\],.-]{1,500})",
         "nodelist="),
    form("host", rf"\b[Hh]ost{_ASSIGNED}{_HOST}(?![\w(])", "host", accept=_is_numbered_host),
    form("host", rf"--(?:master[_-]addr|host|hostname|rdzv[_-]endpoint)[ =]{_HOST}(?![\w(])", "--", accept=_is_host),
    form("host", r"\bLinux (?P<thing>[A-Za-z][\w.-]{1,252}) (?=\d{1,2}\.\d{1,3}\.\d)", "linux ", accept=_is_host),
    # How NCCL begins its lines: host:process:thread [GPU].
    form("host", rf"(?<![\w./-]){_HOST}(?=:\d{{1,8}}:\d{{1,8}} \[)", "] nccl", accept=_is_host),
    form("host", rf"(?m:^)[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d {_HOST} ", ":", least=2, accept=_is_host),
    form("host", rf"\b(?:[Tt]o|[Oo]n|[Ff]rom|[Ww]ith|at|lookup|for) {_HOST}(?=:\d{{2,5}}(?![\w.])| on \d|: Name)", ":",
         "lookup ", accept=_is_numbered_host),
    form("host", rf"(?<![\w./:-]){_HOST}(?=:/[a-z])", ":/", accept=_is_numbered_host),
    form(
        "host",
        rf"(?<![\w.@-])(?P<thing>(?:{_LABEL}\.){{1,8}}(?:{'|'.join(DOMAINS)}))(?![\w-]|\.[A-Za-z0-9])",
        *(f".{domain}" for domain in DOMAINS),
        accept=_is_domain,
    ),
    form(
        "host",
        rf"(?<![\w.@-])(?P<thing>(?=[a-z]{{1,40}}-?\d|[a-z]{{1,40}}-[a-z])(?:{_LABEL}\.){{1,8}}"
        rf"(?:{'|'.join((*LOCAL_DOMAINS, *COUNTRIES))}))(?![\w-]|\.[A-Za-z0-9])",
        *(f".{domain}" for domain in (*LOCAL_DOMAINS, *COUNTRIES)),
        accept=_is_domain,
    ),
    form("host", r"(?<![\w-])(?P<thing>i-[0-9a-f]{8}(?:[0-9a-f]{9})?)(?![\w-])", "i-"),
)  # fmt: skip

ADDRESSES = (
    form(
        "email",
        r"(?<![\w.+@-])(?P<thing>[\w.+-]{1,64}(?:@|%40)(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![\w-])",
        *("@", "%40"),
        accept=_is_email,
    ),
    form("mac", r"(?<![\w:-])(?P<thing>(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2})(?![\w:-])", ":", "-", least=5),
    form("ip", r"(?<![\w:.])(?P<thing>[0-9a-fA-F:]{6,39})(?![\w:])", ":", accept=_is_ipv6, least=2),
    form("ip", r"(?<![\w.])(?P<thing>\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})(?![\w]|\.\d)", ".", accept=_is_ipv4, least=3),
    # The number of an account in the cloud, and what belongs to it.
    form("account", r"\barn:aws[\w-]{0,16}:[\w-]{0,32}:[\w-]{0,32}:(?P<thing>\d{12}:[^\s\"'<>,;]{1,256})", "arn:aws"),
)

DEVICES = (
    form("gpu-uuid", GPU_UUID, "gpu-", "mig-"),
    form("uuid", rf"(?<![\w-])(?P<thing>{UUID})(?![\w-])", "-", least=4),
    form("pci", r"(?<![\w:.-])(?:PCI:)?(?P<thing>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])(?![\w.])", ":"),
    form(
        "pci",
        r"(?:\b(?:PCI|BDF)\b[^\w\n]{1,3}|\bbus[ _-]?id\W{1,3}|(?m:^))"
        r"(?P<thing>[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(?![\w.])",
        ":",
        flags=re.I,
    ),
    form("machine", r"machine[ _-]?id\W{1,6}(?P<thing>[0-9a-f]{32})(?![0-9a-f])", "machine", flags=re.I),
    form(
        "serial",
        r"(?<![A-Za-z])(?:serial(?:[ _-]?(?:number|no))?|s/n|(?:service|asset)[ _-]?tag)\W{1,4}"
        r"(?P<thing>(?=[A-Z]{0,8}\d)[A-Z0-9]{6,32})\b",
        *("serial", "s/n", "service", "asset"),
        flags=re.I,
    ),
)
