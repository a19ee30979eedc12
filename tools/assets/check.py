# Checks the sample shop's texts: that the catalogues are complete and that their test questions are honest. Chinese is read letter by
# letter, and there is no bag of words for it.
#
# Prints every figure and exits with 1 when a rule is broken, naming each place. Needs Python 3.11 and nothing else.
# It judges only the words: how well the model answers the test questions is what `make demo` measures.
#
# usage: python3 tools/assets/check.py

import math
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent

MIN_INTENTS = {"en": 48, "zh": 35}
MIN_EXAMPLES = 9
MIN_EXAMPLE_WORDS = 2
MIN_TEMPLATES_WITH_FEATURES = 25
MIN_PLAIN_TESTS = 140
MAX_EXAMPLE_WORDS = 25
# No run of this many words may occur both in a test question and in what the model learns from.
SHARED_WORDS = {"en": 5, "zh": 6}

# The demo asks this many of each kind. A bag of words must not be enough for the plain ones, and over all 200 it gets
# no point out of scope, because it always answers, and at best the odds of a guess inside an ambiguous group.
ASKED = {"plain": 140, "ambiguous": 40, "out_of_scope": 20}
# So many texts are needed for that: an ambiguous one is asked by two users and more.
TEXTS = {"plain": 140, "ambiguous": 20, "out_of_scope": 20}
MAX_BAG_OF_WORDS = 0.78
MAX_BAG_OF_WORDS_PLAIN = 0.85
# Below this many train questions found by the same bag of words, questions stand under the wrong intent.
MIN_BAG_OF_WORDS_TRAIN = 0.60

FEATURE_VALUES = {
    "orders:status": {"processing", "in_transit", "out_for_delivery", "delayed", "delivered", "cancelled"},
    "orders:return_status": {"none", "requested", "received", "refunded"},
    "orders:payment_status": {"paid", "pending", "failed"},
    "profile:tier": {"basic", "silver", "gold"},
}

# What a template may name, and the null fields among it: those must be guarded by an `if` in the same template.
TEMPLATE_FIELDS = {
    "profile": "name city tier language signup_at loyalty_points store_credit is_business".split(),
    "order": """order_id item quantity total status payment_status return_status carrier tracking placed_at shipped_at
                expected_at delivered_at""".split(),
}
NULLABLE = "carrier tracking shipped_at expected_at delivered_at".split()


LANGUAGE = "en"  # of what is being checked


def words(text):
    """The words of a text, lower-cased and without punctuation: "What's up?" is ["whats", "up"]. Of a Chinese one its letters."""
    if LANGUAGE == "zh":
        return re.findall(r"\w", text.lower())
    return re.sub(r"[^\w\s]", "", text.lower().replace("-", " ").replace("/", " ")).split()


def runs(text):
    """Every run of SHARED_WORDS words of a text."""
    found, length = words(text), SHARED_WORDS[LANGUAGE]
    return {tuple(found[i : i + length]) for i in range(len(found) - length + 1)}


class BagOfWords:
    """The nearest catalogue example by cosine of word counts weighted with idf: the baseline a model has to beat."""

    def __init__(self, labelled):
        documents = [(intent, Counter(words(text))) for intent, text in labelled]
        seen_in = Counter(word for _, counts in documents for word in counts)
        self.idf = {word: math.log(len(documents) / count) + 1 for word, count in seen_in.items()}
        self.examples = [(intent, self.vector(counts)) for intent, counts in documents]

    def vector(self, counts):
        weights = {word: count * self.idf[word] for word, count in counts.items() if word in self.idf}
        length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
        return {word: weight / length for word, weight in weights.items()}

    def intent(self, text):
        """The intent of the nearest example; the catalogue's first one when no word is known."""
        asked = self.vector(Counter(words(text)))
        cosines = (sum(w * example.get(word, 0.0) for word, w in asked.items()) for _, example in self.examples)
        best = max(enumerate(cosines), key=lambda pair: (pair[1], -pair[0]))[0]
        return self.examples[best][0]


def check_catalogue(intents, broken):
    names = [intent["name"] for intent in intents]
    examples = [example for intent in intents for example in intent["examples"]]
    if len(intents) < MIN_INTENTS[LANGUAGE]:
        broken(f"{len(intents)} intents, at least {MIN_INTENTS[LANGUAGE]} wanted")
    for text, count in Counter(names).items():
        if count > 1 or not re.fullmatch(r"[a-z0-9_]+", text):
            broken(f"intent name {text!r} is not unique or not of [a-z0-9_]")
    for intent in intents:
        check_intent(intent, broken)
    with_features = sum("{{" in intent["answer"] for intent in intents)
    if with_features < MIN_TEMPLATES_WITH_FEATURES:
        broken(f"{with_features} templates use features, at least {MIN_TEMPLATES_WITH_FEATURES} wanted")
    fewest = min(len(intent["examples"]) for intent in intents)
    print(f"catalogue: {len(intents)} intents, {len(examples)} examples, at least {fewest} each")
    print(f"templates that use features: {with_features}")


def check_repeats(questions, intents, broken):
    """An example stands once, or in every intent of one ambiguous group: the words must then not prefer any of them."""
    groups = [set(group["intents"].values()) for group in questions["ambiguous"]]
    owners = {}
    for intent in intents:
        for example in intent["examples"]:
            owners.setdefault(" ".join(words(example)), []).append(intent["name"])
    for text, names in owners.items():
        if len(names) > 1 and (set(names) not in groups or len(names) != len(set(names))):
            broken(f"example {text!r} stands in {names}")
    shared = sum(len(names) > 1 for names in owners.values())
    print(f"examples: {len(owners)} different ones, {shared} of them shared by an ambiguous group")


def check_intent(intent, broken):
    name, answer = intent["name"], intent["answer"]
    if set(intent) != {"name", "title", "examples", "answer", "answer_without_features"}:
        broken(f"{name}: the keys are {sorted(intent)}")
    if len(intent["examples"]) < MIN_EXAMPLES:
        broken(f"{name}: {len(intent['examples'])} examples, at least {MIN_EXAMPLES} wanted")
    for example in intent["examples"]:
        if not MIN_EXAMPLE_WORDS <= len(words(example)) <= MAX_EXAMPLE_WORDS:
            broken(f"{name}: example of {len(words(example))} words: {example!r}")
    for view, field in re.findall(r"\b(profile|order)\.(\w+)", answer):
        if field not in TEMPLATE_FIELDS[view]:
            broken(f"{name}: the template names {view}.{field}, which does not exist")
        if field in NULLABLE and not re.search(rf"{{% (el)?if order\.{field}\b", answer):
            broken(f"{name}: order.{field} may be null and is used without a guard")
    if re.search(r"[{}]", intent["answer_without_features"]):
        broken(f"{name}: answer_without_features must be plain text")


def check_questions(questions, intents, broken):
    names = {intent["name"] for intent in intents}
    needs = {}
    for group in questions["ambiguous"]:
        feature, chosen = group["feature"], group["intents"]
        if set(chosen) != FEATURE_VALUES[feature]:
            broken(f"group {group['name']}: its values {sorted(chosen)} are not those of {feature}")
        for value, intent in chosen.items():
            if intent not in names:
                broken(f"group {group['name']}: no intent is called {intent!r}")
            needs[intent] = {feature: value}
    plain = [entry["intent"] for entry in questions["plain"]]
    if sorted(plain) != sorted(names):
        broken(f"plain questions do not match the intents one to one: {sorted(set(plain) ^ names)}")
    for entry in questions["plain"]:
        if entry.get("needs", {}) != needs.get(entry["intent"], {}):
            broken(f"{entry['intent']}: `needs` is not what its ambiguous group says")
    for kind, sections in sections_of(questions).items():
        for section in sections:
            for split in ("train", "test"):
                if not section[split]:
                    broken(f"{kind}: a section has no {split} questions")
        train = sum(len(section["train"]) for section in sections)
        test = sum(len(section["test"]) for section in sections)
        print(f"{kind}: {train} train, {test} test")
        if test < TEXTS[kind]:
            broken(f"{kind}: {test} test questions, at least {TEXTS[kind]} wanted")


def sections_of(questions):
    """The tables that hold questions, by kind."""
    return {kind: questions[kind] if isinstance(questions[kind], list) else [questions[kind]] for kind in ASKED}


def check_honesty(questions, intents, broken):
    sections = [section for kind in sections_of(questions).values() for section in kind]
    tests = [text for section in sections for text in section["test"]]
    known = [text for section in sections for text in section["train"]]
    known_examples = [text for intent in intents for text in intent["examples"]]
    known += known_examples
    source = {run: text for text in known for run in runs(text)}
    whole = {" ".join(words(text)): text for text in known}
    shared = 0
    for text in tests:
        for run in sorted(runs(text) & source.keys()):
            shared += 1
            broken(f"test {text!r} shares {' '.join(run)!r} with {source[run]!r}")
        if " ".join(words(text)) in whole:
            shared += 1
            broken(f"test {text!r} is the same as {whole[' '.join(words(text))]!r}")
    for text, count in Counter(" ".join(words(test)) for test in tests).items():
        if count > 1:
            broken(f"test question occurs {count} times: {text!r}")
    repeated = Counter(" ".join(words(text)) for text in set(known_examples))
    repeated.update(" ".join(words(text)) for section in sections for text in section["train"])
    for text, count in repeated.items():
        if count > 1:
            broken(f"train question repeats another one or an example: {text!r}")
    print(f"test questions that share {SHARED_WORDS[LANGUAGE]} words in a row with an example or a train question: {shared}")


def check_baseline(questions, intents, broken):
    baseline = BagOfWords([(intent["name"], example) for intent in intents for example in intent["examples"]])
    plain = [(entry["intent"], text) for entry in questions["plain"] for text in entry["test"]]
    plain_rate = sum(baseline.intent(text) == intent for intent, text in plain) / len(plain)
    train = [(entry["intent"], text) for entry in questions["plain"] for text in entry["train"]]
    train_rate = sum(baseline.intent(text) == intent for intent, text in train) / len(train)
    odds = [
        1 / len(group["intents"]) if baseline.intent(text) in group["intents"].values() else 0.0
        for group in questions["ambiguous"]
        for text in group["test"]
    ]
    ambiguous_rate = sum(odds) / len(odds)
    asked = sum(ASKED.values())
    right = plain_rate * ASKED["plain"] + ambiguous_rate * ASKED["ambiguous"]
    print(f"bag of words, plain: {plain_rate:.1%} (at most {MAX_BAG_OF_WORDS_PLAIN:.0%})")
    print(f"bag of words, ambiguous: {ambiguous_rate:.1%} (expected value)")
    print(f"bag of words, {asked} asked: {right:.1f} right, {right / asked:.1%} (at most {MAX_BAG_OF_WORDS:.0%})")
    print(f"bag of words, plain train questions: {train_rate:.1%} (at least {MIN_BAG_OF_WORDS_TRAIN:.0%})")
    if train_rate < MIN_BAG_OF_WORDS_TRAIN:
        broken("too few train questions are like their intent's examples: are they under the right one?")
    if plain_rate > MAX_BAG_OF_WORDS_PLAIN:
        broken("a bag of words gets too many of the plain test questions")
    if right / asked > MAX_BAG_OF_WORDS:
        broken("a bag of words gets too many of the test questions")


def main():
    global LANGUAGE
    problems = []
    for LANGUAGE, mark in (("en", ""), ("zh", "-zh")):
        print(f"--- {LANGUAGE}")
        with open(HERE / f"catalogue{mark}.toml", "rb") as file:
            intents = tomllib.load(file)["intent"]
        with open(HERE / f"questions{mark}.toml", "rb") as file:
            questions = tomllib.load(file)
        broken = lambda problem: problems.append(f"{LANGUAGE}: {problem}")
        check_catalogue(intents, broken)
        check_repeats(questions, intents, broken)
        check_questions(questions, intents, broken)
        check_honesty(questions, intents, broken)
        if LANGUAGE == "en":
            check_baseline(questions, intents, broken)
    for problem in problems:
        print(f"broken: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
