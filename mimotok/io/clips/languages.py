"""Languages as corpora name them, and as recognisers do."""

from __future__ import annotations

import re

# Lhotse's recipes, and others, write the English name where we need ISO 639-1
_CODES = {
    "afrikaans": "af", "amharic": "am", "arabic": "ar", "assamese": "as", "basque": "eu", "belarusian": "be",
    "bengali": "bn", "bulgarian": "bg", "burmese": "my", "cantonese": "yue", "catalan": "ca", "chinese": "zh",
    "croatian": "hr", "czech": "cs", "danish": "da", "dutch": "nl", "english": "en", "estonian": "et", "finnish": "fi",
    "french": "fr", "galician": "gl", "georgian": "ka", "german": "de", "greek": "el", "gujarati": "gu", "hausa": "ha",
    "hebrew": "he", "hindi": "hi", "hungarian": "hu", "icelandic": "is", "indonesian": "id", "irish": "ga",
    "italian": "it", "japanese": "ja", "javanese": "jw", "kannada": "kn", "kazakh": "kk", "khmer": "km", "korean": "ko",
    "lao": "lo", "latvian": "lv", "lithuanian": "lt", "macedonian": "mk", "malay": "ms", "malayalam": "ml",
    "maltese": "mt", "mandarin": "zh", "marathi": "mr", "mongolian": "mn", "nepali": "ne", "norwegian": "no",
    "pashto": "ps", "persian": "fa", "polish": "pl", "portuguese": "pt", "punjabi": "pa", "romanian": "ro",
    "russian": "ru", "serbian": "sr", "sinhala": "si", "slovak": "sk", "slovenian": "sl", "somali": "so",
    "spanish": "es", "sundanese": "su", "swahili": "sw", "swedish": "sv", "tagalog": "tl", "tamil": "ta",
    "telugu": "te", "thai": "th", "turkish": "tr", "ukrainian": "uk", "urdu": "ur", "uzbek": "uz", "vietnamese": "vi",
    "welsh": "cy", "yoruba": "yo", "zulu": "zu",
}  # fmt: skip


def language_code(name: str | None) -> str | None:
    """Return the code of a language, as "en", of its code with or without a region or its English name; None of None.

    Example:
        >>> [language_code(name) for name in ("en", "en-US", "zh_CN", "English", "de", "Klingon")]
        ['en', 'en', 'zh', 'en', 'de', 'klingon']
    """
    if name is None:
        return None
    first = re.split(r"[-_\s]", name.strip().lower(), maxsplit=1)[0]
    return _CODES.get(first, first)
