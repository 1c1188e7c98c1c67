from prompt_tuning.data import postprocessors


def test_strip_leaves_the_space_within():
    answer = postprocessors.strip
    assert answer(" a  b\n", example={}, is_target=True) == "a  b"
