"""Codes of languages that a text can be in."""

import difflib

from voicereel.errors import InvalidRequest

# ISO 639-1, and the codes of three letters that the cutter of sentences has rules for.
_CODES = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da
de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz
ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln
lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi
pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti
tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
arz ast awa bar bcl bho ceb ckb cmn csb fil frr gan gsw hak haw hsb dsb kab lzh mai min nan nds
pnb sah sat scn sco sgs shn szl tzm vec war wuu yue
"""
CODES = frozenset(_CODES.split())


def check_language(code: str) -> None:
    """Refuse what is no code of a language.

    Raises:
        InvalidRequest: Names the nearest codes.
    """
    if code in CODES:
        return
    near = [code[:2].lower()] if code[:2].lower() in CODES and len(code) > 2 else []
    near += difflib.get_close_matches(code.lower(), sorted(CODES), n=1, cutoff=0.9)
    hint = f" Did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    raise InvalidRequest(f"language is {code!r}, expected a code of ISO 639, such as en.{hint}")
