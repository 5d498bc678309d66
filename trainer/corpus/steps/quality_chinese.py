"""Quality rules for Chinese: characters where English has words, full-width marks, boilerplate lines. Pure.

No library has these. Thresholds come from FineWeb-2's configuration for cmn_Hani where it has one (its words taken as two
characters), else from measuring clean text: poems, manual pages, the Debian handbook (docs/corpus.md). Every rule keeps
at least 99.5% of the poems in the box.
"""

import re
from collections import Counter
from collections.abc import Iterator

from trainer.config_steps import ChineseSection, QualitySection
from trainer.corpus.steps.draft import Dropped
from trainer.corpus.steps.judging import Limit, code_lines, first_broken, prose_of, repetition, share

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_WORD_CHARACTER = re.compile(r"[^\W_]")
_MARK = re.compile("[，。！？；：、（）《》〈〉「」『』“”‘’…—·,.!?;:()\"'\\[\\]-]")
_SYMBOL = re.compile(r"[^\w\s，。！？；：、（）《》〈〉「」『』“”‘’【】〔〕…—–·～￥％,.!?;:()\"'\[\]/%+\-]|_")
_WIDE_MARK = re.compile("[，。！？；：（）]")
_ASCII_MARK_AT_HAN = re.compile("(?<=[\u4e00-\u9fff])[,.!?;:()]|[,.!?;:()](?=[\u4e00-\u9fff])")
_ENDS = tuple("。！？；：，、…”’』」）》.!?;:\"'")
_ELLIPSES = ("...", "…", "。。。")
_BULLETS = ("•", "·", "-", "*", "●", "○", "■", "□", "◆", "◇", "▪", "★", "☆", "►", "▶")
_SHORT_LINE_CHARS = 10
_FEW_MARKS, _FEW_LINES = 5, 5
"""With fewer marks or lines their shares say nothing: a quatrain has four lines, two of them title and author."""


def judge_chinese(text: str, section: QualitySection) -> Dropped | None:
    """The first rule that the document breaks, or None. Costs about 0.15 s per MB."""
    return first_broken(chinese(prose_of(text, section.keep_code), section.han))


def chinese(text: str, rules: ChineseSection) -> Iterator[Limit]:
    """Document rules; each name is that of its threshold in ChineseSection."""
    han = len(_HAN.findall(text))
    yield Limit("chinese.han_chars", "number of Han characters", han, rules.min_han_chars)
    yield Limit(
        "chinese.han_share", "share of Han characters", share(han, len(_WORD_CHARACTER.findall(text))), rules.min_han_share
    )
    visible = "".join(text.split())
    symbols = share(len(_SYMBOL.findall(visible)), len(visible))
    yield Limit("chinese.symbol_share", "share of symbols", symbols, most=rules.max_symbol_share)
    wide, ascii_marks = len(_WIDE_MARK.findall(text)), len(_ASCII_MARK_AT_HAN.findall(text))
    if wide + ascii_marks >= _FEW_MARKS:
        what = "share of full-width punctuation"
        yield Limit("chinese.full_width_punctuation", what, share(wide, wide + ascii_marks), rules.min_full_width_punctuation)
    marks = len(_MARK.findall(text))
    yield Limit("chinese.chars_per_mark", "Han characters per mark", han / max(1, marks), most=rules.max_chars_per_mark)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) >= _FEW_LINES:
        yield from _line_limits(lines, rules)
    yield from repetition(text, visible, rules.repetition, "chinese")


def _line_limits(lines: list[str], rules: ChineseSection) -> Iterator[Limit]:
    ended = [line.endswith(_ENDS) for line in lines]
    what = "share of lines that end in punctuation"
    yield Limit("chinese.punctuated_lines", what, share(sum(ended), len(lines)), rules.min_punctuated_lines)
    short = sum(len(line) < _SHORT_LINE_CHARS and not end for line, end in zip(lines, ended, strict=True))
    yield Limit("chinese.short_lines", "share of short lines", share(short, len(lines)), most=rules.max_short_lines)
    ellipses = sum(line.endswith(_ELLIPSES) for line in lines)
    yield Limit(
        "chinese.ellipsis_lines", "share of lines with an ellipsis", share(ellipses, len(lines)), most=rules.max_ellipsis_lines
    )
    bullets = sum(line.startswith(_BULLETS) for line in lines)
    yield Limit("chinese.bullet_lines", "share of bullet lines", share(bullets, len(lines)), most=rules.max_bullet_lines)


# --- boilerplate lines --------------------------------------------------------------------------------------------------

_NAVIGATION = (
    "网站首页|返回首页|回到首页|返回顶部|回到顶部|返回列表|返回上一页|返回目录|回到目录|设为首页|加入收藏|收藏本站|首页|上一篇|下一篇|上一页|下一页|上一章|下一章|"
    "尾页|末页|上一条|下一条|当前位置|您的位置|您现在的位置|您当前的位置|你的位置|所在位置|站内搜索|站点地图|网站地图|网站导航|友情链接|联系我们|关于我们|"
    "加入我们|诚聘英才|相关阅读|相关推荐|相关文章|相关新闻|相关链接|相关专题|热门推荐|热门文章|热门标签|热门搜索|热点新闻|猜你喜欢|你可能喜欢|"
    "推荐阅读|延伸阅读|最新文章|最新评论|随机文章|排行榜|点击排行|展开全文|阅读全文|查看全文|查看更多|加载更多|点击查看更多|更多|"
    "没有了|无|暂无|全部|搜索|目录|返回|跳转|标签|分类|归档|繁体|简体|English"
)
_SHARING = (
    "分享到|分享至|分享给|一键分享|分享|微信好友|微信|新浪微博|腾讯微博|微博|朋友圈|QQ空间|QQ好友|QQ|人人网|豆瓣|知乎|复制链接|扫一扫|扫码关注|扫描二维码|二维码|"
    "关注我们|关注公众号|微信公众号|官方微信|官方微博|点赞|点个赞|收藏|转发|打赏|赞赏|举报|反馈|打印本页|打印|关闭窗口|关闭|字号|大中小|大|中|小"
)
_ACCOUNT = (
    "立即登录|请登录|请先登录|登录后评论|登录|登陆|免费注册|立即注册|注册|忘记密码|找回密码|用户名|密码|验证码|退出|我的账户|个人中心|会员中心|购物车|"
    "发表评论|我要评论|网友评论|全部评论|最新评论|写评论|评论|回复|匿名用户|还没有评论|暂无评论|抢沙发"
)
_ADVERTISING = (
    "广告|推广|赞助商链接|立即购买|立即咨询|立即下载|立即抢购|马上抢购|点击购买|点击咨询|点击下载|点击进入|免费试用|免费咨询|免费领取|限时优惠|限时抢购|在线咨询|在线客服|"
    "下载客户端|客户端下载|下载APP|打开APP|APP下载|加盟热线|咨询热线|客服热线|客服电话|服务热线|全国统一热线"
)
_PHRASES = re.compile(
    "|".join(sorted("|".join((_NAVIGATION, _SHARING, _ACCOUNT, _ADVERTISING)).split("|"), key=len, reverse=True))
)
"""What menus are made of: a line of nothing else is one."""
_FAMILIES = {
    phrase: name
    for name, phrases in (
        ("navigation", _NAVIGATION),
        ("sharing", _SHARING),
        ("account", _ACCOUNT),
        ("advertising", _ADVERTISING),
    )
    for phrase in phrases.split("|")
}
_LABELLED = re.compile(
    r"^[\[【（(]?+(?:责任编辑|责编|本文编辑|编辑|校对|审核|来源|文章来源|稿源|信息来源|原文链接|本文链接|本文地址|原标题|发布时间|发布日期|发表时间|更新时间|更新日期|浏览次数|浏览量|浏览|"
    r"阅读次数|阅读量|阅读数|阅读|点击数|点击量|点击|人气|评论数|字体|关键词|关键字|标签|上一篇|下一篇|上一条|下一条|当前位置|您的位置|您现在的位置|您当前的位置|你的位置|"
    r"所在位置|咨询热线|客服热线|客服电话|服务热线|加盟热线|加微信|微信号|客服QQ|QQ群|举报电话|举报邮箱|投稿邮箱)[ ]?+[:：]"
)
"""Labels that a content system prints; what follows is a name, a number or a link, and no sentence."""
_LEGAL = re.compile(
    r"ICP[备证][ ]?[0-9]|公网安备|网安备案|版权所有|版权归.{0,24}所有|[Cc]opyright|COPYRIGHT|All [Rr]ights [Rr]eserved|"
    r"保留(?:所有|一切)权利|"
    r"未经.{0,16}(?:授权|许可|允许|同意).{0,16}(?:转载|复制|使用)|(?:转载|引用).{0,8}(?:请|须|需).{0,4}注明|增值电信业务经营许可证|信息服务许可证|网络文化经营许可证|"
    r"信息网络传播视听节目许可证|违法和?不良信息举报|免责声明[:：]|本站(?:所有|部分|内容|文章|图片).{0,24}(?:来自|来源于|转载自|收集自)(?:互联网|网络)|如有侵权.{0,24}(?:联系|删除)"
)
"""Notices: one of these makes a line of at most 120 characters boilerplate."""
_MENU_CHARS, _LABEL_CHARS, _NOTICE_CHARS = 80, 60, 120


def boilerplate_rule(line: str) -> str | None:
    """Which kind of boilerplate a line is: navigation, sharing, account, advertising, label, notice; None for text."""
    line = line.strip()
    if len(line) <= _NOTICE_CHARS and _LEGAL.search(line):
        return "notice"
    if len(line) <= _LABEL_CHARS and _LABELLED.search(line) and not line.endswith(("。", "！", "？")):
        return "label"
    if len(line) > _MENU_CHARS or line.endswith(("。", "！", "？", "，", "；")):
        return None
    phrases = _PHRASES.findall(line)
    if not phrases:
        return None
    letters = len(_WORD_CHARACTER.findall(line))
    in_menu = sum(map(len, phrases))
    if in_menu < 0.8 * letters or (in_menu < 2 and letters < 3):
        return None
    return Counter(_FAMILIES[phrase] for phrase in phrases).most_common(1)[0][0]


def chinese_lines(text: str, section: QualitySection) -> tuple[str, Counter[str]]:
    """The text without boilerplate lines, and how many of which kind. Code and blank lines stay. O(n)."""
    if not section.han.boilerplate:
        return text, Counter()
    lines = text.split("\n")
    is_code = code_lines(lines) if section.keep_code else [False] * len(lines)
    kept: list[str] = []
    removed: Counter[str] = Counter()
    for line, code in zip(lines, is_code, strict=True):
        kind = None if code or len(line) > 200 or not line.strip() else boilerplate_rule(line)
        if kind:
            removed[f"chinese.{kind}"] += 1
        else:
            kept.append(line)
    return "\n".join(kept), removed
