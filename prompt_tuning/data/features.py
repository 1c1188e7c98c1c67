"""The features of a text-to-text task: ids of inputs and of targets, each ended by EOS."""

import seqio
import tensorflow as tf

# A registered task that names this vocabulary is read with the model's own.
MODEL_VOCABULARY = seqio.PassThroughVocabulary(size=0, eos_id=1)


def features(vocabulary: seqio.Vocabulary = MODEL_VOCABULARY) -> dict[str, seqio.Feature]:
    """The output features of a task that tokenises with `vocabulary`."""
    return {
        name: seqio.Feature(vocabulary, add_eos=True, dtype=tf.int32)
        for name in ("inputs", "targets")
    }
