from w2sdefense.attacks import attack_from_trigger as attack_from_trigger
from w2sdefense.data import align_labels as align_labels
from w2sdefense.data import load_dataset as load_dataset
from w2sdefense.defenses.w2s import W2SDefense as W2SDefense
from w2sdefense.distill.fit_teacher import LabelTeacherJob as LabelTeacherJob
from w2sdefense.distill.fit_teacher import fit_teacher as fit_teacher
from w2sdefense.distill.own import W2STrainer as W2STrainer
from w2sdefense.evaluation.evaluate import evaluate as evaluate
from w2sdefense.evaluation.evaluate import make_test_set as make_test_set
from w2sdefense.evaluation.harness import backdoor_metrics as backdoor_metrics
from w2sdefense.evaluation.harness import write_task as write_task
from w2sdefense.victim import load_victim as load_victim

_EXPORTS: dict[str, str]
