"""Every field of a configuration, once, with its meaning and unit; the other files only override."""

from ml_collections import ConfigDict, config_dict

from bt_jax.errors import UserError


def get_config() -> ConfigDict:
  """The fields and their defaults."""
  config = ConfigDict()
  config.task = "segmentation"  # or classification: which slices have a tumour
  config.preset = ""  # which preset of its file this is; names the run's folder
  config.parallel = "jit"  # over all devices: jit, one program cut by the compiler; pmap, the program on each
  config.feed = "auto"  # resident: training slices stay in memory, a GPU's own; stream: read ahead from the disk
  config.host_timeout = 60  # seconds of silence after which another host counts as lost

  config.data = ConfigDict()
  config.data.name = "lgg"  # lgg: the published slices; phantom: synthetic ones, written on the spot; own: your own
  config.data.root = config_dict.placeholder(str)  # folder of the data: kaggle_3m/, or your images and masks
  config.data.dir = config_dict.placeholder(str)  # where the built data set lives; None: TFDS's own folder
  config.data.expect_full = True  # insist on all 110 patients and 3,929 slices
  config.data.folds = 5  # name=own: that patients are divided into by a hash, where no file of yours divides them
  config.data.window = ""  # name=own: intensities that become black and white, e.g. "-160,240" of CT; "": each volume's
  config.data.workers = config_dict.placeholder(int)  # feed=stream: processes that read; None: up to 8, as cores allow
  config.data.size = 256  # pixels; the network sees slices of size x size, scores are on the data's own grid
  config.data.channels = "pre,flair,post"  # what the network sees, in order; flair-1: of the slice before; own: all
  config.data.contrast = "none"  # raised first: stretch (1st to 99th percentile) or clahe, by slice
  config.data.normalize = "auto"  # volume: z-score by the slice's own volume; image: by its own pixels; unit: 0..1;
  # symmetric: -1..1; imagenet, caffe: as weights of PyTorch and Keras expect; auto: as model.pretrained does, or volume

  config.split = ConfigDict()
  config.split.kind = "fold"  # by patient; group: several folds; random: slices, leaks; buda10: ten public cases
  config.split.fold = 0  # from 0 on: the test fold; the next one validates
  config.split.folds = "0-4"  # kind=group: the test folds; the two folds after them validate
  config.split.seed = 0  # of the random split

  config.model = ConfigDict()
  config.model.name = "unet"  # segmentation: lite_unet, unet, resunet, resunet_scratch; else lite, cnn, resnet50
  config.model.width = 32  # unet, resunet_scratch, cnn: channels of the first level
  config.model.depth = 4  # unet, resunet_scratch, cnn: how often the picture is halved
  config.model.pool = "max"  # cnn: max, average, min
  config.model.variant = "torchvision"  # resnet50, resunet: torchvision (timm, Hugging Face, RadImageNet) or keras
  config.model.encoder = "lite0"  # lite, lite_unet: size of the EfficientNet-Lite, lite0, lite1, lite2
  config.model.head = "linear"  # resnet50: linear, or the paper's
  config.model.slice_head = False  # lite_unet: a second output, any tumour in this slice, that leaves slices empty
  config.model.pretrained = ""  # the encoder from efficientnet-lite0, a file, hub name, converted weights, or run
  config.model.dtype = "float32"  # of the computation; parameters and statistics are always float32

  config.augment = ConfigDict()
  config.augment.flip = True  # left and right
  config.augment.rotation_degrees = 15.0  # at most, either way
  config.augment.scale = 0.1  # at most, as a share, up and down
  config.augment.shift = 0.05  # at most, as a share of the width
  config.augment.gain = 0.0  # at most, as a share, up and down, of each channel by itself
  config.augment.offset = 0.0  # at most, either way, of intensities in 0..1, of each channel by itself
  config.augment.drop_sequence = 0.0  # probability that pre, post or both are replaced by FLAIR
  config.augment.gamma = 0.2  # exponent between 1 / (1 + gamma) and 1 + gamma
  config.augment.noise = 0.02  # largest deviation, of intensities in 0..1

  config.loss = ConfigDict()
  config.loss.name = "bce_dice"  # bce, dice, bce_dice, focal_tversky; classification: cross_entropy
  config.loss.smooth = 1.0  # pixels added to both sides of the fraction, in dice, bce_dice and focal_tversky
  config.loss.pooled = True  # one fraction for the batch rather than one for each slice, in the same three
  config.loss.fp_weight = 0.3  # focal_tversky: weight of false positives
  config.loss.fn_weight = 0.7  # focal_tversky: weight of false negatives
  config.loss.exponent = 0.75  # focal_tversky: power of 1 - Tversky index
  config.loss.label_smoothing = 0.0  # cross_entropy: share of the target that is spread over both classes

  config.train = ConfigDict()
  config.train.seed = 0  # of initial parameters, order of slices, augmentation and dropout
  config.train.batch_size = 16  # slices, over all devices
  config.train.accumulate = 1  # pieces that a batch is taken in, one after another, in less memory
  config.train.remat = False  # compute most of the way forward again on the way back, in less memory
  config.train.steps_per_dispatch = config_dict.placeholder(int)  # feed=resident; None: 1 on a CPU, 10 elsewhere
  config.train.epochs = 60
  config.train.optimizer = "adamw"  # sgd, adam, adamw
  config.train.learning_rate = 1e-3  # at its highest
  config.train.schedule = "cosine"  # cosine: down to 0; constant
  config.train.warmup_epochs = 1.0  # linear rise before that
  config.train.momentum = 0.9  # sgd
  config.train.epsilon = 1e-8  # adam, adamw
  config.train.weight_decay = 1e-4  # adamw, on kernels
  config.train.stage_rates = ""  # factor of the learning rate by stage, e.g. "stem=0,stage1=0.1"; 0 freezes it whole
  config.train.batch_stats = "update"  # or keep: those the encoder, or a net without one, began with are gone by
  config.train.sampling = "all"  # balanced: as many slices with a tumour as without; tumor: those with one only
  config.train.class_weights = "none"  # classification: balanced weighs both classes alike in the loss
  config.train.mixup = 0.0  # classification: alpha of the Beta distribution that slices are mixed by; 0: not
  config.train.ema_decay = 0.0  # of the moving average of the parameters that is evaluated; 0: none
  config.train.score = "pooled.dice"  # of the validation part: picks the best checkpoint; loss: the lowest
  config.train.patience = 0  # epochs without a better score until training stops; 0: never
  config.train.deterministic = True  # on GPUs: only kernels that give the same bits every time

  config.eval = ConfigDict()
  config.eval.batch_size = 32  # slices, over all devices
  config.eval.threshold = config_dict.placeholder(float)  # of probability; None: chosen on the validation part
  config.eval.largest_component = False  # segmentation: keep only the largest 3-D component of each volume
  config.eval.mirror = False  # average the probabilities of each slice and of its mirror image
  config.eval.flair_only = False  # also predict the test slices with FLAIR in all channels, as where others are missing
  config.eval.baselines = True  # also evaluate methods that learn nothing, or little, on the same slices

  config.crossval = ConfigDict()
  config.crossval.folds = "all"  # of --mode=crossval: or some of them, e.g. "0,3-6"
  config.crossval.group = 1  # neighbouring folds that one training tests: 2 halves the number of trainings

  config.report = ConfigDict()
  config.report.subgroups = "all"  # none, or some of site, grade, sequences, size and the molecular clusters
  config.report.show_slices = True  # pictures of slices in the run's folder and its report; off: numbers alone
  return config


def start_from_lite0(config: ConfigDict, name: str) -> None:
  """The recipe of the networks on EfficientNet-Lite0 from ImageNet: `lite_unet` and `lite`."""
  config.data.update(normalize="volume")
  config.model.update(name=name, encoder="lite0", pretrained="efficientnet-lite0")
  config.augment.update(rotation_degrees=20.0, scale=0.15, shift=0.08, gain=0.1, offset=0.02, gamma=0.0, noise=0.0)
  config.augment.update(drop_sequence=0.5)
  config.train.update(weight_decay=1e-2, warmup_epochs=0.5, sampling="balanced", ema_decay=0.99)
  config.eval.update(flair_only=True)


def suit_own_data(config: ConfigDict) -> list[str]:
  """Changes what presets have for the sequences of LGG alone, where the data are others; the fields that were changed.

  `drop_sequence` and `flair_only` put FLAIR in the place of other channels, and the baselines look for what is bright in FLAIR.
  """
  if config.data.name in ("lgg", "phantom"):
    return []
  if config.data.channels == get_config().data.channels:
    config.data.update(channels="all")
  changed = []
  for section, field, value in (
    ("augment", "drop_sequence", 0.0),
    ("eval", "flair_only", False),
    ("eval", "baselines", False),
  ):
    if config[section][field] != value:
      config[section][field] = value
      changed.append(f"{section}.{field}={value}")
  return changed


def check_preset(file: str, preset: str, presets: tuple[str, ...]) -> None:
  """Raises UserError where a configuration file has no preset of this name."""
  if preset not in presets:
    raise UserError(f"{file} has no preset {preset!r}: there are {', '.join(filter(None, presets))}, or none at all")
