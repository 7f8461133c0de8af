from w2sdefense.version import code_of, code_version


def test_words_about_the_code_are_no_part_of_its_version():
    bare = "def f(x):\n    return x + 1\nC = 2\n"
    told = '"""A."""\ndef f(x):  # why\n    """B."""\n    return (x +\n 1)\nC = 2\n"""Said."""\n'
    assert code_of(told) == code_of(bare)


def test_what_the_code_does_is():
    assert code_of("x = 1") != code_of("x = 2")
    assert code_of("x = 'a'") != code_of("y = 'a'")
    assert code_of("if a:\n    b()") != code_of("if a:\n    pass\nb()")


def test_a_version_names_the_release():
    release, _, code = code_version().partition("+")
    assert release[0].isdigit()
    assert len(code) == 8
