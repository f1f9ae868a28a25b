"""Makes the manual pages and the shells' completions out of what the program and its pages say themselves, so that they cannot drift.

  python3 docker/manual.py PROGRAM gateway/README.md schema/config.schema.json VERSION FOLDER

writes trackbus.1, trackbus.json.5, and the completions trackbus (bash), _trackbus (zsh) and trackbus.fish into FOLDER. Each page and
completion has the subcommands and options of `trackbus help`, and the keys of the configuration with the meanings of the table in
gateway/README.md. What is in neither place, or in one alone, ends this with an error.
"""
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

OPTION = re.compile(r"^  (?:(-\w), |    )(--[\w-]+)(?: ([A-Z_:]+))?(?:  +(.*))?$")


class Option:
    def __init__(self, match):
        self.short, self.long, self.argument, text = match.groups()
        self.text = text or ""


class Command:
    """A subcommand, taken apart as its help is laid out: usage, paragraphs, options."""

    def __init__(self, name, summary, text):
        self.name, self.summary, self.options, self.paragraphs = name, summary, [], []
        blocks = text.strip("\n").split("\n\n")
        self.usage = blocks[0].split("\n")
        self.takes_file = "[FILE]" in blocks[0]
        for block in blocks[1:]:
            self.read(block)
        # What stands in the usage alone needs no explanation, as --json.
        for long in re.findall(r"\[(--[\w-]+)\]", blocks[0]):
            if long not in [option.long for option in self.options]:
                self.options.append(Option(OPTION.match(f"      {long}")))

    def read(self, block):
        lines = block.split("\n")
        if not OPTION.match(lines[0]):
            self.paragraphs.append(lines)
            return
        for line in lines:
            match = OPTION.match(line)
            if match:
                self.options.append(Option(match))
            else:
                self.options[-1].text = (self.options[-1].text + " " + line.strip()).strip()

    def words(self):
        """The words that may stand first: of `list|resend|drop`, or one per line of the usage."""
        choice = re.search(r"\(?\b([a-z]+(?:\|[a-z]+)+)\b", self.usage[0])
        if choice:
            return choice.group(1).split("|")
        found = [re.match(rf"trackbus {self.name} ([a-z]+)\b", line) for line in self.usage]
        return [match.group(1) for match in found if match]


def read_commands(say):
    """Those that `trackbus help` names, in its order."""
    text = say("help")
    commands = []
    for name in re.findall(r"^  trackbus ([a-z]+)", text, re.M):
        if name == "help":
            continue
        # Where the usage leaves no room, the summary stands in the line below.
        line = re.search(rf"^  trackbus {name}\b.*(?:\n {{20,}}\S.*)?$", text, re.M).group().replace("\n", " ")
        summary = re.split(r"  +|(?<=COMMAND) ", line.strip(), maxsplit=1)
        help_text = say("help", name)
        first = summary[1] if len(summary) > 1 else help_text.split("\n\n")[1].split(".")[0].replace("\n", " ").lower()
        commands.append(Command(name, first, help_text))
    share_options(commands)
    return text, commands


def share_options(commands):
    """An option that the usage has and the text does not explain is what it is elsewhere, as -c."""
    known = {option.short: option for command in commands for option in command.options}
    for command in commands:
        for short in sorted(set(re.findall(r"(?<![\w-])-\w\b", "\n".join(command.usage)))):
            if short not in [option.short for option in command.options]:
                command.options.append(known[short])


# --- the page's tables ---


def table(page, header):
    """The rows below that header, as lists of cells."""
    lines = page.split("\n")
    rows = []
    for line in lines[lines.index(header) + 2:]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def keys_of(schema, path=""):
    for key, rules in schema.get("properties", {}).items():
        inner = f"{path}{key}"
        if rules.get("type") == "array" and "properties" in rules.get("items", {}):
            yield inner, rules
            yield from keys_of(rules["items"], inner + "[].")
        elif "properties" in rules:
            yield from keys_of(rules, inner + ".")
        else:
            yield inner, rules


def configuration(page, schema):
    """(key, default, meaning, rules), each key of the schema once."""
    rows = {cells[0].strip("`"): cells for cells in table(page, "| key | default | meaning |")}
    keys = dict(keys_of(schema))
    if set(rows) != set(keys):
        sys.exit("manual.py: in the schema or in the table alone: " + ", ".join(sorted(set(rows) ^ set(keys))))
    for key, cells in rows.items():
        yield key, cells[1], cells[2], keys[key]


def allowed(rules):
    if "enum" in rules:
        return "one of " + ", ".join(json.dumps(value) for value in rules["enum"])
    if "minimum" in rules and "maximum" in rules:
        return f"{rules['minimum']} to {rules['maximum']}" + (f" {rules['unit']}" if "unit" in rules else "")
    return ""


# --- roff ---


def plain(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")  # a terminal without UTF-8 has no "…"
    return "\\&" + text if text[:1] in (".", "'") else text


def breakable(text):
    """A line may end inside of a topic or of JSON, which are too long for one."""
    return re.sub(r"\S{25,}", lambda word: re.sub(r"(?<=[/,])(?=.)", r"\\:", word.group()), text)


def roff(markdown):
    """One paragraph of a page: code is bold, a link is its text."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown)
    parts = re.split(r"`([^`]*)`", text.replace("**", ""))
    made = "".join(f"\\fB{plain(part)}\\fR" if at % 2 else plain(part) for at, part in enumerate(parts)).replace("\\fR\\&", "\\fR")
    return breakable(made)


def head(name, section, version, what):
    """Lines are not filled up, nor words hyphenated: much of it is code. A newer groff takes the adjustment from AD again and again."""
    return [f'.TH {name} {section} "" "trackbus {version}" "{what}"', ".ds AD l", ".ad l", ".nh"]


def manual(text, commands, page, version):
    title = text.split("\n")[0].partition(": ")[2]
    lines = head("TRACKBUS", 1, version, "User commands")
    lines += [".SH NAME", f"trackbus \\- {plain(title)}", ".SH SYNOPSIS", ".nf"]
    lines += [plain(usage) for command in commands for usage in command.usage]
    lines += ["trackbus help [COMMAND]", "trackbus version", ".fi", ".SH COMMANDS"]
    for command in commands:
        lines += [f".SS {command.name}"]
        for paragraph in command.paragraphs:
            # Tables and examples are indented, and stay as they are.
            kept = any(line.startswith("  ") for line in paragraph)
            lines += [".PP"] + [".nf"] * kept + [plain(line) for line in paragraph] + [".fi"] * kept
        for option in command.options:
            names = ", ".join(filter(None, [option.short, option.long])) + (f" {option.argument}" if option.argument else "")
            lines += [".TP", f".B {plain(names)}", plain(option.text) or "for machines"]
    lines += [".SS help", "Prints the subcommands, or what one of them does.", ".SS version", "Prints the version and the commit."]
    lines += [".SH EXIT STATUS", plain(text[text.index("Exit codes: ") + 12:].replace("\n", " ").strip())]
    lines += [".SH TOPICS"]
    for cells in table(page, "| topic | payload |"):
        lines += [".TP", f".B {roff(cells[0]).replace(chr(92) + 'fB', '').replace(chr(92) + 'fR', '')}", roff(cells[1])]
    lines += [".SH SEE ALSO", ".BR trackbus.json (5),", ".BR mosquitto (8)"]
    return lines


def file_manual(page, schema, version):
    lines = head("TRACKBUS.JSON", 5, version, "File formats")
    lines += [".SH NAME", "trackbus.json \\- configuration of trackbus", ".SH DESCRIPTION",
              plain("One JSON file, named with -c. Every key is optional, and an unknown key is an error that names it."),
              ".B trackbus check \\-c FILE", plain("lists all that is wrong with a file."), ".SH KEYS"]
    for key, default, meaning, rules in configuration(page, schema):
        facts = [fact for fact in (allowed(rules), f"default {default}" if default else "") if fact]
        lines += [".TP", f".B {plain(key)}", roff(meaning or rules.get("description", "")) or plain("text")]
        lines += [f"({roff('; '.join(facts))})"] if facts else []
    notes = page[page.index("- Without `channels`"):page.index("\nThe gateway logs to standard error")]
    lines += [".SH NOTES"]
    for note in re.split(r"^- ", notes, flags=re.M)[1:]:
        lines += [".PP", roff(note.strip().replace("\n  ", " "))]
    lines += [".SH FILES", ".TP", ".I /etc/trackbus/trackbus.json", "the configuration of the service", ".SH SEE ALSO", ".BR trackbus (1)"]
    return lines


# --- completions ---


def bash(commands, protocols):
    cases = []
    for command in commands:
        options = " ".join(name for option in command.options for name in (option.short, option.long) if name)
        files = " files=true" if command.takes_file else ""
        cases.append(f"        {command.name}) words=\"{' '.join(command.words())}\" options=\"{options} --help\"{files} ;;")
    names = " ".join([command.name for command in commands] + ["help", "version"])
    return f"""# Completion of trackbus for bash, made by docker/manual.py.
_trackbus_files() {{
    compopt -o filenames 2>/dev/null # which words are not, even where a folder is called so
    COMPREPLY=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
_trackbus() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words= options= files=false
    case $before in
        -c|--config|-o|--output) _trackbus_files; return ;;
        -p|--protocol) COMPREPLY=($(compgen -W "{' '.join(protocols)}" -- "$current")); return ;;
    esac
    if [ "$COMP_CWORD" -eq 1 ] || {{ [ "$COMP_CWORD" -eq 2 ] && [ "$before" = help ]; }}; then
        COMPREPLY=($(compgen -W "{names}" -- "$current"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
{chr(10).join(cases)}
    esac
    case $current in
        -*) COMPREPLY=($(compgen -W "$options" -- "$current")) ;;
        *) if $files; then _trackbus_files; else COMPREPLY=($(compgen -W "$words" -- "$current")); fi ;;
    esac
}}
complete -F _trackbus trackbus
"""


def quoted(text):
    return text.replace("\\", "").replace("'", "’").replace("[", "(").replace("]", ")").replace(":", ",")


def zsh_option(option, protocols):
    names = f"({option.short} {option.long})'{{{option.short},{option.long}}}'" if option.short else option.long
    text = quoted(textwrap.shorten(option.text.split(";")[0], 60, placeholder="")) or option.long.strip("-")
    what = {"FILE": "_files", "PROTOCOL": f"({' '.join(protocols)})"}.get(option.argument, " ")
    return f"'{names}[{text}]" + (f":{option.argument.lower()}:{what}" if option.argument else "") + "'"


def zsh(commands, protocols):
    listed = "\n".join(f"        '{command.name}:{quoted(command.summary)}'" for command in commands)
    cases = []
    for command in commands:
        words = command.words()
        rest = [f"'1:word:({' '.join(words)})'"] * bool(words) + ["'*:file:_files'"] * command.takes_file
        cases.append(f"        {command.name}) _arguments {' '.join([zsh_option(option, protocols) for option in command.options] + rest)} ;;")
    return f"""#compdef trackbus
# Completion of trackbus for zsh, made by docker/manual.py.
_trackbus() {{
    local -a commands=(
{listed}
        'help:explain a command'
        'version:print the version'
    )
    if (( CURRENT == 2 )) || [[ $words[2] == help ]]; then
        _describe command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{chr(10).join(cases)}
    esac
}}
_trackbus "$@"
"""


def fish(commands, protocols):
    names = " ".join(command.name for command in commands)
    lines = ["# Completion of trackbus for fish, made by docker/manual.py."]
    for command in commands:
        lines.append(f"complete -c trackbus -n __fish_use_subcommand -f -a {command.name} -d '{quoted(command.summary)}'")
        given = f"-n '__fish_seen_subcommand_from {command.name}'"
        if not command.takes_file:
            lines.append(f"complete -c trackbus {given} -f")
        if command.words():
            lines.append(f"complete -c trackbus {given} -a '{' '.join(command.words())}'")
        for option in command.options:
            short = f"-s {option.short[1:]} " if option.short else ""
            argument = {None: "", "FILE": " -r -F", "PROTOCOL": f" -x -a '{' '.join(protocols)}'"}.get(option.argument, " -x")
            lines.append(f"complete -c trackbus {given} {short}-l {option.long[2:]}{argument} -d '{quoted(option.text.split(';')[0])}'")
    lines += ["complete -c trackbus -n __fish_use_subcommand -f -a 'help version'",
              f"complete -c trackbus -n '__fish_seen_subcommand_from help' -f -a '{names}'"]
    return "\n".join(lines) + "\n"


def main():
    program, page, schema, version, folder = sys.argv[1:]

    def say(*arguments):
        return subprocess.check_output([program, *arguments], text=True)

    page, schema, folder = Path(page).read_text(), json.loads(Path(schema).read_text()), Path(folder)
    text, commands = read_commands(say)
    protocols = [protocol["name"] for protocol in json.loads(say("describe", "protocols", "--json"))]
    for name, made in [("trackbus.1", manual(text, commands, page, version)), ("trackbus.json.5", file_manual(page, schema, version))]:
        (folder / name).write_text("\n".join(made) + "\n")
    for name, make in [("trackbus", bash), ("_trackbus", zsh), ("trackbus.fish", fish)]:
        (folder / name).write_text(make(commands, protocols))


main()
